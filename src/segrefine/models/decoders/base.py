"""Define the interface of every decoder."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


class AuxiliaryHead(nn.Module):
    """Scores of an inner map, for a loss of its own in training.

    Attributes:
        score: the layers that map (B, C, h, w) to scores (B, K, h, w).
        to_pixels: as that of a `Decoder`.
    """

    def __init__(self, score: nn.Module, to_pixels: nn.Module) -> None:
        super().__init__()
        self.score, self.to_pixels = score, to_pixels

    def forward(self, maps: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, K, h, w)."""
        return self.score(maps)


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
        auxiliary: the `AuxiliaryHead`s, which training alone uses, with `model.auxiliary` where a decoder offers it;
            else None. A subclass creates them last, so that the other layers start as without them.
        auxiliary_weight: by which their losses are multiplied before they are added.
        takes_scales: whether it can take maps of an image at several scales, keyed by (stride, scale).
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
    auxiliary: nn.ModuleList | None
    auxiliary_weight: float = 0.0
    to_pixels: nn.Module
    takes_scales: bool = False
    pools_to_one: bool = False

    def __init__(self, num_classes: int, options: Any = None) -> None:
        super().__init__()
        self.num_classes, self.options = num_classes, options
        self.context = nn.Identity()
        self.crf = self.auxiliary = None

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

    def score_layers(self) -> list[nn.Conv2d]:
        """Return the convolutions that give class scores, by default the last one with as many outputs as classes."""
        layers = [module for module in self.modules() if isinstance(module, nn.Conv2d)]
        return [layer for layer in layers if layer.out_channels == self.num_classes][-1:]

    def forward(self, features: Mapping[Any, Tensor]) -> Tensor:
        """`{stride: (B, C, h, w)}` -> scores (B, K, h, w) on the grid of the finest map that is used."""
        raise NotImplementedError

    def all_scores(self, features: Mapping[Any, Tensor]) -> list[Tensor]:
        """Return what `forward` does, then the scores of each auxiliary head on its own grid."""
        return [self(features)]
