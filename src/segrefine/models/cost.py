"""Measure what a network costs: parameters and multiply-adds."""

from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from segrefine.models.decoders.base import AuxiliaryHead
from segrefine.models.encoders.base import MIN_SIDE
from segrefine.models.network import SegmentationModel


def count_parameters(module: nn.Module) -> int:
    """Return the number of values in all parameters, including frozen ones, but not those of auxiliary heads."""
    heads = [part for part in module.modules() if isinstance(part, AuxiliaryHead)]
    left_out = {id(parameter) for head in heads for parameter in head.parameters()}
    return sum(parameter.numel() for parameter in module.parameters() if id(parameter) not in left_out)


def count_multiply_adds(net: nn.Module, size: tuple[int, int], in_channels: int = 3) -> int:
    """Count the multiply-adds of convolutions and matrix products for one image of `size` (H, W), without computing.

    PyTorch counts two operations for each. Interpolation, pooling and norms do not count, as in the papers.
    """
    modes = {module: module.training for module in net.modules()}
    like = next(net.parameters())
    net.eval()
    with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True), FlopCounterMode(display=False) as counter:
        net(torch.empty(1, in_channels, *size, dtype=like.dtype, device=like.device))
    for module, training in modes.items():  # each its own: frozen norms stay frozen
        module.training = training
    return counter.get_total_flops() // 2


def measure_cost(net: SegmentationModel, size: tuple[int, int]) -> dict[str, Any]:
    """Return the costs for summary.json: `params`, `flops` (multiply-adds) and the (H, W) that these hold for.

    This `flops_size` is `size`, with small sides padded. The multiply-adds are without a CRF, whether it was trained
    with the network or follows it in an evaluation.
    """
    height, width = (max(side, MIN_SIDE) for side in size)
    crf, net.decoder.crf = net.decoder.crf, None
    try:
        flops = count_multiply_adds(net, (height, width), net.in_channels)
    finally:
        net.decoder.crf = crf
    return {"params": count_parameters(net), "flops": flops, "flops_size": [height, width]}
