"""An encoder that sees its input at several scales: RefineNet's 4-cascaded 2-scale variant (CVPR 2017, Figure 6c)."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from segrefine.core.errors import UserError
from segrefine.models.encoders.base import Encoder, resize


class MultiScaleEncoder(Encoder):
    """One encoder per scale of the input, 1.2 and 0.6 in the paper, each with weights of its own.

    Maps are keyed by (stride, scale). `scale` is the largest; the decoder's scores lie on that grid.
    """

    def __init__(self, encoders: Sequence[Encoder], scales: Sequence[float]) -> None:
        super().__init__()
        if len(set(scales)) < len(scales) or min(scales) <= 0:
            raise UserError(f"model.input_scales={list(scales)} must be different positive numbers.")
        pairs = sorted(zip(map(float, scales), encoders, strict=True), key=lambda pair: -pair[0])
        self._scales = [scale for scale, _ in pairs]
        self.encoders = nn.ModuleList(encoder for _, encoder in pairs)
        self.scale = pairs[0][0]
        self.mean, self.std = encoders[0].mean, encoders[0].std
        self.channels = {(key, scale): count for scale, each in pairs for key, count in each.channels.items()}
        self.centers = {(key, scale): center for scale, each in pairs for key, center in each.centers.items()}

    @property
    def scales(self) -> list[float]:
        return self._scales

    @property
    def stages(self) -> list[list[nn.Module]]:
        """Each of the five stages of every encoder."""
        levels = zip(*(encoder.stages for encoder in self.encoders), strict=True)  # type: ignore[arg-type]
        return [[layer for stage in level for layer in stage] for level in levels]

    def relus(self) -> dict[str, nn.Module]:
        """Return those of every encoder."""
        encoders: Any = self.encoders
        return {f"encoders.{i}.{name}": relu for i, each in enumerate(encoders) for name, relu in each.relus().items()}

    def forward(self, images: Tensor) -> dict[tuple[int, float], Tensor]:
        """(B, channels, H, W) -> {(stride, scale): (B, C, about H * scale / stride, about W * scale / stride)}."""
        return {
            (stride, scale): features
            for scale, encoder in zip(self.scales, self.encoders, strict=True)
            for stride, features in encoder(resize(images, scale)).items()
        }
