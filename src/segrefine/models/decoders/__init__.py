"""Decoders: feature maps keyed by stride to class scores. `Decoder` says what one has to be."""

# ruff: noqa: F401  importing one registers it

from segrefine.models.decoders.base import Decoder
from segrefine.models.decoders.deeplab import DeepLabLargeFOVDecoder
from segrefine.models.decoders.dilated import DeepLabV3Decoder, DilatedFCNDecoder
from segrefine.models.decoders.fcn import FCNDecoder
from segrefine.models.decoders.refinenet import RefineNetDecoder
from segrefine.models.decoders.smp import SMPDecoder
from segrefine.models.decoders.unpooling import DeconvNetDecoder, SegNetDecoder
