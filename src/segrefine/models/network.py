"""The assembly of any encoder with any decoder into a segmentation network."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segrefine.core.channels import to_rgb
from segrefine.core.errors import UserError
from segrefine.core.labels import VOID, voc_color_map
from segrefine.models.decoders.base import AuxiliaryHead, Decoder
from segrefine.models.encoders.base import MIN_SIDE, Encoder, pad_small, scaled_size
from segrefine.models.upsampling import RowwiseUpsampling


class SegmentationModel(nn.Module):
    """An encoder and a decoder. Nothing but the decoder differs between the networks that are compared.

    Letters: B batch, C channels of the images, K classes, H W input size.

    Attributes:
        mean, std: (C, 1, 1) float32 of images in [0, 1], the input that the weights are made for: the encoder's, but
            published weights bring their own.
        in_channels: C: 3 for RGB, 1 for gray, more for RGB with further channels behind it.
        num_classes: K.
        classes: their names, where a checkpoint says them, else empty.
        palette: their colors, (K, 3) uint8 RGB.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, encoder: Encoder, decoder: Decoder) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder
        self.num_classes, self.in_channels = decoder.num_classes, len(encoder.mean)
        self.classes: list[str] = []
        self.palette = voc_color_map(decoder.num_classes)
        self.register_buffer("mean", torch.tensor(encoder.mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(encoder.std).view(-1, 1, 1))

    layout = torch.contiguous_format
    """The order in memory in which images should come; see `lay_out`."""

    def lay_out(self, device: torch.device) -> None:
        """Put the weights into the order in memory that is fastest on `device`, and `layout` with them."""
        self.layout = self.encoder.cpu_layout if device.type == "cpu" else torch.channels_last
        self.to(memory_format=self.layout)  # type: ignore[call-overload]

    def relus(self) -> dict[str, nn.Module]:
        """Return the ReLUs of encoder and decoder that nothing bypasses, or modules that end in one, by name."""
        encoder = {f"encoder.{name}": relu for name, relu in self.encoder.relus().items()}
        return encoder | {f"decoder.{name}": relu for name, relu in self.decoder.relus().items()}

    def preprocess(self, images: Tensor) -> Tensor:
        """Normalize images (B, C, H, W), float in [0, 1], for `forward`: subtract `mean`, divide by `std`.

        Raises:
            UserError: the images are integers, or have another number of channels.
        """
        if not images.is_floating_point():
            raise UserError(f"preprocess takes floats in [0, 1], not {images.dtype}. Divide 8-bit images by 255.")
        if images.ndim < 3 or images.shape[-3] != self.in_channels:
            raise UserError(f"preprocess takes images (B, {self.in_channels}, H, W), not {tuple(images.shape)}.")
        return (images - self.mean) / self.std

    def from_pixels(self, pixels: Tensor) -> Tensor:
        """Turn images (B, C, H, W) uint8 of any size into what `forward` takes: normalized, small ones padded."""
        return pad_small(self.preprocess(pixels.to(memory_format=self.layout).float() / 255))

    def colors(self, images: Tensor) -> Tensor:
        """Turn what `preprocess` returned back into RGB in 0..255, (B, 3, H, W) float32.

        Channels beyond the first three are left out, and gray is repeated.
        """
        return to_rgb(_single(images * self.std + self.mean) * 255)

    def forward(self, images: Tensor, upsampled: bool = True, auxiliary: bool = False) -> Tensor | list[Tensor]:
        """(B, C, H, W) float, normalized, H and W >= 32 -> logits (B, K, H, W) float32; ValueError below 32.

        With `upsampled=False` the decoder's scores on their coarser grid, (B, K, h, w), for `upsample` and `rows`; with
        `model.crf=true` they have not gone through the CRF. With `auxiliary=True` a list of either, and of the scores
        of each auxiliary head on its own grid (`Decoder.auxiliary`).
        """
        if images.ndim != 4 or images.shape[1] != self.in_channels or not images.is_floating_point():
            raise UserError(
                f"The network takes a batch of floats (B, {self.in_channels}, H, W), not {images.dtype} of shape "
                f"{tuple(images.shape)}."
            )
        size = images.shape[-2:]
        if size[0] < MIN_SIDE or size[1] < MIN_SIDE:  # not by min(): torch.export would then fix which side is shorter
            raise UserError(f"Images must be at least {MIN_SIDE}x{MIN_SIDE} pixels; this one is {size[0]}x{size[1]}.")
        if self.training and self.decoder.pools_to_one and images.shape[0] == 1:
            raise UserError(
                "The network cannot train on a batch of one image: its batch norm after a pool to one cell needs "
                "more. Use batches of 2 or more (datamodule.batch_size; of segrefine benchmark, batch_size)."
            )
        features = self.encoder(images)
        scores, *others = self.decoder.all_scores(features) if auxiliary else [self.decoder(features)]
        found = self.decoder.context(scores)
        if upsampled:
            found = self.upsample(found, (size[0], size[1]))
            found = found if self.decoder.crf is None else self.decoder.crf(found, self.colors(images))
        return [found, *others] if auxiliary else found

    @property
    def heads(self) -> list[AuxiliaryHead]:
        """The auxiliary heads, in training; none otherwise."""
        return [*(self.decoder.auxiliary or ())] if self.training else []  # type: ignore[list-item]

    def drop_auxiliary(self) -> None:
        """Remove the auxiliary heads, which training alone uses."""
        self.decoder.auxiliary = None

    def upsample(self, scores: Tensor, size: tuple[int, int], to_pixels: nn.Module | None = None) -> Tensor:
        """Upsample the decoder's scores (B, K, h, w) to logits (B, K, *size) float32.

        Each score lands on the pixels it comes from. Those of an auxiliary head come with its `to_pixels`.
        """
        scale = self.encoder.scale
        with _no_autocast(scores):
            logits = (to_pixels or self.decoder.to_pixels)(_single(scores), scaled_size(size, scale))
            return logits if scale == 1 else F.interpolate(logits, size, mode="bilinear")

    def labels_at(self, cells: tuple[int, int], labels: Tensor, to_pixels: nn.Module | None = None) -> Tensor:
        """Return the label that each cell of the decoder's scores should have: that of the pixel it looks at.

        Between two pixels it is the later one. RefineNet's release takes the pixel in the middle of each cell's even
        share of the image (guosheng/refinenet, main/cnn_layer_dense_softmaxloss_forward.m: imresize, nearest), as it
        spreads its scores evenly over the image. Here they land where `upsample` puts them, up to half a cell away from
        there, and labels have to be those of the same pixels.

        Args:
            cells: height and width of the scores.
            labels: (B, H, W) uint8 or int64 of the images.
            to_pixels: what brings the scores to the pixels, the decoder's unless given.

        Returns:
            (B, *cells), VOID where a cell looks beside the image.

        Raises:
            UserError: The decoder's `to_pixels` does not say where its cells look.
        """
        positions: Any = getattr(to_pixels or self.decoder.to_pixels, "positions", None)
        if positions is None:
            raise UserError(
                f"recipe.loss_at=scores: {type(self.decoder).__name__}.to_pixels has no method `positions`, which says "
                "where its cells look (see segrefine.models.upsampling). Use recipe.loss_at=pixels."
            )
        sides = labels.shape[-2:]
        grid = zip(cells, sides, scaled_size(sides, self.encoder.scale), strict=True)
        # The middle of pixel p is at p + 0.5, whatever the scale.
        middles = [(positions(count, inner) + 0.5) * side / inner for count, side, inner in grid]
        rows, columns = (each.floor().long().to(labels.device) for each in middles)
        reduced = labels[:, rows.clamp(0, sides[0] - 1)][:, :, columns.clamp(0, sides[1] - 1)]
        beside = ((rows < 0) | (rows >= sides[0]))[:, None] | (columns < 0) | (columns >= sides[1])
        return reduced.masked_fill(beside, VOID)

    @property
    def has_rows(self) -> bool:
        """Whether there are `rows`: upsampling is by a whole stride, ends at the image's size, and no CRF follows."""
        by_rows = isinstance(self.decoder.to_pixels, RowwiseUpsampling)
        return by_rows and self.encoder.scale == 1 and self.decoder.crf is None

    def rows(self, scores: Tensor, width: int, top: int, bottom: int, to_pixels: nn.Module | None = None) -> Tensor:
        """Compute rows `top` to `bottom` of what `upsample` returns alone, (B, K, bottom - top, width) float32."""
        with _no_autocast(scores):
            to_pixels = to_pixels or self.decoder.to_pixels
            assert isinstance(to_pixels, RowwiseUpsampling)
            return to_pixels.rows(_single(scores), width, top, bottom)


def _single(scores: Tensor) -> Tensor:
    """Return the scores in float32, or float64: bilinear gradients are slow in bfloat16 (pytorch issue 140096)."""
    return scores.to(torch.promote_types(scores.dtype, torch.float32))


def _no_autocast(scores: Tensor) -> torch.autocast:
    """Return a context in which what follows has the precision of its input. There is none for the meta device."""
    device = scores.device.type
    return torch.autocast("cpu" if device == "meta" else device, enabled=False)
