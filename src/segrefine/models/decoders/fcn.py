"""FCN's decoders: skip scores summed from coarse to fine (Long, Shelhamer, Darrell, CVPR 2015; PAMI 2016).

Letters: B batch, K classes, C channels, h w feature size, H W input size.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from torch import Tensor, nn

from segrefine.core.errors import UserError
from segrefine.core.registry import register_decoder
from segrefine.models.decoders.base import Decoder
from segrefine.models.upsampling import CaffeUpsampling, create_upsampling, crop


@register_decoder("fcn")
class FCNDecoder(Decoder):
    """FCN-32s, 16s, 8s, 4s: one 1x1 score layer per skip, summed after upsampling the coarser sum to the finer grid.

    Score layers start at zero and upsampling starts bilinear, so a new net predicts one class everywhere and refines
    from there (release, solve.py and surgery.py; CVPR 2015, section 4.3, "Fine-tuning" and "Optimization").

    `geometry="same"` (ours) adds scores where they belong for every size of the image; "caffe" is the release's over a
    VGG padded by 100 pixels: upsampled scores are added to a crop of the finer ones. Where a crop begins follows from
    where the cells of either map look.

    Departure from the paper: with `upsample="learned"` the last upsampling is learned like the others; the paper
    fixes it to bilinear (section 4.3) and the release fixes all.
    """

    @dataclass(frozen=True, kw_only=True)
    class Options:
        """Options of `conf/model/fcn*.yaml`.

        Attributes:
            skips: strides to score, such as (32, 16, 8) for FCN-8s.
            skip_scales: `{stride: factor}` on a map before it is scored: 0.01 for pool4 and 0.0001 for pool3 in FCN-8s
                at-once (release, voc-fcn8s-atonce/net.py), which trains all skips together on VGG's raw activations.
            upsample: "learned", "fixed" or "interpolate" (see `segrefine.models.upsampling`).
            geometry: "same" or "caffe".
        """

        skips: Sequence[int]
        skip_scales: Mapping[int, float]
        upsample: Literal["learned", "fixed", "interpolate"]
        geometry: Literal["same", "caffe"]

    def __init__(
        self, channels: Mapping[int, int], centers: Mapping[int, float], num_classes: int, options: Options
    ) -> None:
        super().__init__(num_classes, options)
        self.geometry = options.geometry
        self.strides = sorted(options.skips, reverse=True)
        self.skip_scales = dict(options.skip_scales)
        if not self.strides or len({*self.strides}) < len(self.strides) or not channels.keys() >= {*self.strides}:
            raise UserError(
                f"model.skips={list(options.skips)} must be different strides of the encoder's maps, which are "
                f"{sorted(channels)}."
            )
        if unused := sorted(self.skip_scales.keys() - {*self.strides}):
            raise UserError(f"model.skip_scales has {unused[0]}, which is not in model.skips={list(options.skips)}.")
        self.score = nn.ModuleDict(
            {str(stride): nn.Conv2d(channels[stride], num_classes, 1) for stride in self.strides}
        )
        for parameter in self.score.parameters():
            nn.init.zeros_(parameter)
        self._add_upsampling(centers, options.upsample, options.geometry == "caffe")

    def score_layers(self) -> list[nn.Conv2d]:
        return list(self.score.values())  # type: ignore[arg-type]

    @classmethod
    def needs(cls, options: Options) -> tuple[str, ...]:
        """Ask for VGG's fc6 and fc7 and, for the release's geometry, its padding."""
        return ("classifier", "caffe") if options.geometry == "caffe" else ("classifier",)

    def _add_upsampling(self, centers: Mapping[int, float], kind: str, caffe: bool) -> None:
        """Add the layers that bring each sum of scores to the next finer grid, and the last to the pixels."""
        self.upsample = nn.ModuleDict()
        self.crops: dict[int, int] = {}  # by stride: at which cell of its scores the sum begins
        center = centers[self.strides[0]]  # where cell 0 of the sum looks
        for coarse, fine in pairwise(self.strides):
            layer = create_upsampling(kind, self.num_classes, coarse // fine, (center - centers[fine]) / fine, caffe)
            self.upsample[str(coarse)] = layer
            self.crops[fine] = -layer.offset if isinstance(layer, CaffeUpsampling) else 0
            center = centers[fine] + self.crops[fine] * fine
        self.to_pixels = create_upsampling(kind, self.num_classes, self.strides[-1], center, caffe)

    def forward(self, features: Mapping[int, Tensor]) -> Tensor:
        """`{stride: (B, C, h, w)}` -> scores (B, K, h, w) at the finest skip."""
        scores = {
            stride: self.score[str(stride)](features[stride] * self.skip_scales.get(stride, 1.0))
            for stride in self.strides
        }
        total = scores[self.strides[0]]
        for coarse, fine in pairwise(self.strides):
            upsample = self.upsample[str(coarse)]
            if isinstance(upsample, CaffeUpsampling):
                total = upsample.whole(total)
                total = total + crop(scores[fine], self.crops[fine], total.shape[-2:])
            else:
                total = upsample(total, scores[fine].shape[-2:]) + scores[fine]
        return total
