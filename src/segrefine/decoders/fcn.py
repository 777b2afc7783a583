"""FCN's decoders: skip scores summed from coarse to fine (Long, Shelhamer, Darrell, CVPR 2015; PAMI 2016).

Letters: B batch, K classes, C channels, h w feature size, H W input size.
"""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn
from torchvision.models.segmentation.fcn import FCNHead

from segrefine.decoders.base import Decoder
from segrefine.errors import UserError
from segrefine.upsampling import Interpolate, create_upsampling


class FCNDecoder(Decoder):
    """FCN-32s, 16s, 8s, 4s: one 1x1 score layer per skip, summed after upsampling the coarser sum to the finer grid.

    Score layers start at zero and upsampling starts bilinear, so a new net predicts one class everywhere and refines
    from there (release, solve.py and surgery.py; CVPR 2015, section 4.3, "Fine-tuning" and "Optimization").

    Departure from the paper: with `upsample="learned"` the last upsampling is learned like the others; the paper
    fixes it to bilinear (section 4.3) and the release fixes all.

    Args:
        skips: strides to score, such as (32, 16, 8) for FCN-8s.
        skip_scales: `{stride: factor}` on a map before it is scored: 0.01 for pool4 and 0.0001 for pool3 in FCN-8s
            at-once (release, voc-fcn8s-atonce/net.py), which trains all skips together on VGG's raw activations.
        upsample: "learned", "fixed" or "interpolate" (see `segrefine.upsampling`).
    """

    needs = ("classifier",)

    def __init__(
        self,
        channels: Mapping[int, int],
        centres: Mapping[int, float],
        num_classes: int,
        *,
        skips: Sequence[int],
        skip_scales: Mapping[int, float],
        upsample: str,
    ) -> None:
        super().__init__()
        self.strides = sorted(skips, reverse=True)
        self.skip_scales = dict(skip_scales)
        absent = [stride for stride in [*self.strides, *self.skip_scales] if stride not in channels]
        if absent or not self.strides:
            raise UserError(
                f"model.skips={list(skips)} must be strides of the encoder's maps, which are {sorted(channels)}."
            )
        self.score = nn.ModuleDict(
            {str(stride): nn.Conv2d(channels[stride], num_classes, 1) for stride in self.strides}
        )
        for layer in self.score.values():
            for parameter in layer.parameters():
                nn.init.zeros_(parameter)
        self.upsample = nn.ModuleDict(
            {
                str(coarse): create_upsampling(
                    upsample, num_classes, coarse // fine, (centres[coarse] - centres[fine]) / fine
                )
                for coarse, fine in zip(self.strides, self.strides[1:], strict=False)
            }
        )
        finest = self.strides[-1]
        self.to_pixels = create_upsampling(upsample, num_classes, finest, centres[finest])

    def forward(self, features: Mapping[int, Tensor]) -> Tensor:
        """`{stride: (B, C, h, w)}` -> scores (B, K, h, w) at the finest skip."""
        total: Tensor | None = None
        for coarser, stride in zip([None, *self.strides], self.strides, strict=False):
            scores = self.score[str(stride)](features[stride] * self.skip_scales.get(stride, 1.0))
            total = scores if total is None else self.upsample[str(coarser)](total, scores.shape[-2:]) + scores
        assert total is not None
        return total


class DilatedFCNDecoder(Decoder):
    """torchvision's FCN head on a dilated ResNet's stride-8 map: 3x3 convolution to C/4, batch norm, ReLU, dropout 0.1,
    1x1 scores (torchvision/models/segmentation/fcn.py). It keeps resolution by dilation, which RefineNet argues
    against.
    """

    needs = ("dilation",)

    def __init__(self, channels: Mapping[int, int], centres: Mapping[int, float], num_classes: int) -> None:
        super().__init__()
        self.head = FCNHead(channels[8], num_classes)
        self.to_pixels = Interpolate(8, centres[8])

    def forward(self, features: Mapping[int, Tensor]) -> Tensor:
        """`{8: (B, C, h, w)}` -> scores (B, K, h, w)."""
        return self.head(features[8])
