"""Define the interface of every decoder."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


class Decoder(nn.Module):
    """Feature maps keyed by stride to class scores; knows no encoder.

    A decoder is built as `Decoder(channels, centers, num_classes, options)` from what an encoder publishes (see
    `segrefine.models.encoders`). A subclass sets `to_pixels`, defines `forward`, and lists its options.

    Attributes:
        num_classes: K.
        context: the module that scores (B, K, h, w) go through before `to_pixels`: the identity, or with
            `model.context=true` a `segrefine.models.decoders.context.DilationContext`.
        crf: the layer that logits and colors go through at the end, with `model.crf=true` a
            `segrefine.models.crf.CRFLayer`, else None.
        pools_to_one: whether batch norm follows a pool to a single cell, which in training takes two images or more.
        to_pixels: the module that turns scores (B, K, h, w) and a size (H, W) into logits (B, K, H, W) on the encoder's
            input grid, such as `segrefine.models.upsampling.Interpolate`.
    """

    @dataclass(frozen=True, kw_only=True)
    class Options:
        """The options of a file of `conf/model` for this decoder; a field without a default must be given."""

    options: Any
    num_classes: int
    context: nn.Module
    crf: nn.Module | None
    to_pixels: nn.Module
    pools_to_one: bool = False

    def __init__(self, num_classes: int, options: Any = None) -> None:
        super().__init__()
        self.num_classes, self.options = num_classes, options
        self.context = nn.Identity()
        self.crf = None

    @classmethod
    def needs(cls, options: Any) -> tuple[str, ...]:
        """Return what the decoder needs from the encoder besides the maps (see `create_encoder`).

        A decoder that needs "indices" also receives `depths`, which the encoder publishes under that name.
        """
        return ()

    def relus(self) -> dict[str, nn.Module]:
        """Return the ReLUs that nothing bypasses, by name: a channel that is negative there learns nothing more."""
        return {name: module for name, module in self.named_modules() if isinstance(module, nn.ReLU)}

    def last_of_branches(self) -> list[nn.Conv2d]:
        """Return the last convolution of every residual branch, which `init=zero_residual` starts at zero."""
        return []

    def forward(self, features: Mapping[Any, Tensor]) -> Tensor:
        """`{stride: (B, C, h, w)}` -> scores (B, K, h, w) on the grid of the finest map that is used."""
        raise NotImplementedError
