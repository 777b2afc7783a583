"""Decoders: feature maps keyed by stride to class scores.

Every decoder is a `Decoder`, a `torch.nn.Module` built as `Decoder(channels, centres, num_classes, **options)` from
what the encoder publishes (see `segrefine.encoders`), with

- `forward(features)`: `{stride: (B, C, h, w)}` -> scores (B, K, h, w) on the grid of its finest input;
- `to_pixels(scores, size)`: those scores -> logits (B, K, H, W) on the encoder's input grid;
- `needs`: what it asks of the encoder beyond the maps, "classifier" or "dilation" (see `create_encoder`).

Decoders know nothing of encoders.
"""

from segrefine.decoders.fcn import DilatedFCNDecoder, FCNDecoder
from segrefine.decoders.refinenet import RefineNetDecoder

__all__ = ["DilatedFCNDecoder", "FCNDecoder", "RefineNetDecoder"]
