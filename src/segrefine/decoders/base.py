"""What every decoder is to the rest of the package; `segrefine.decoders` says what the parts mean."""

from typing import ClassVar

from torch import nn


class Decoder(nn.Module):
    """Maps keyed by stride to scores (B, K, h, w)."""

    needs: ClassVar[tuple[str, ...]] = ()
    to_pixels: nn.Module
