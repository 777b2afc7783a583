"""A decoder of your own: `SEGREFINE_PLUGINS=custom_decoder segrefine train model=hypercolumn model.width=32`."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

import segrefine
from segrefine.models.upsampling import Interpolate


@segrefine.register_decoder("hypercolumn")
class Hypercolumn(segrefine.Decoder):
    """Reduces every map to one width, upsamples it to the finest grid, adds them up and scores the sum."""

    @dataclass(frozen=True, kw_only=True)
    class Options:
        """Options of `model=hypercolumn`."""

        width: int = 64

    def __init__(
        self, channels: Mapping[int, int], centers: Mapping[int, float], num_classes: int, options: Options
    ) -> None:
        super().__init__(num_classes, options)
        self.finest, *self.coarser = sorted(channels)
        self.reduce = nn.ModuleDict({str(s): nn.Conv2d(channels[s], options.width, 1) for s in channels})
        self.upsample = nn.ModuleDict()
        for stride in self.coarser:  # cell j of a map looks at pixel stride * j + center
            center = (centers[stride] - centers[self.finest]) / self.finest
            self.upsample[str(stride)] = Interpolate(stride // self.finest, center)
        self.score = nn.Conv2d(options.width, num_classes, 1)
        self.to_pixels = Interpolate(self.finest, centers[self.finest])

    def forward(self, features: Mapping[int, Tensor]) -> Tensor:
        """`{stride: (B, C, h, w)}` -> scores (B, K, h, w) on the finest grid."""
        total = self.reduce[str(self.finest)](features[self.finest])
        for stride in self.coarser:
            total = total + self.upsample[str(stride)](self.reduce[str(stride)](features[stride]), total.shape[-2:])
        return self.score(total.relu())
