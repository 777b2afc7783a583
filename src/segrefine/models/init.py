"""Initialize the convolutions of a decoder."""

from typing import Literal

import torch
from torch import nn

from segrefine.models.decoders.base import Decoder

Init = Literal["default", "release", "zero_mean", "zero_residual"]


@torch.no_grad()
def initialize(decoder: Decoder, init: Init) -> None:
    """Start a decoder's convolutions anew; transposed ones, which start bilinear, stay as they are.

    - `default` leaves them alone: PyTorch's start but where the decoder says otherwise.
    - `release` draws all weights from N(0, 0.01) and sets all biases to 0, as RefineNet's release does
      (guosheng/refinenet, main/My_net_util.m).
    - `zero_mean` takes from every filter its mean, so that a map that is positive everywhere does not shift all
      channels (Huang et al., "Centered Weight Normalization", ICCV 2017).
    - `zero_residual` starts the last convolution of every residual branch at zero (Goyal et al. 2017, section 5.1); a
      decoder without branches stays as it is.
    """
    convolutions = [module for module in decoder.modules() if isinstance(module, nn.Conv2d)]
    if init == "release":
        for layer in convolutions:
            nn.init.normal_(layer.weight, std=0.01)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    elif init == "zero_mean":
        for layer in convolutions:
            layer.weight -= layer.weight.mean((1, 2, 3), keepdim=True)
    elif init == "zero_residual":
        for layer in decoder.last_of_branches():
            nn.init.zeros_(layer.weight)
