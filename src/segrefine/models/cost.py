"""What a network costs: parameters and multiply-adds."""

from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from segrefine.models.encoders.base import MIN_SIDE


def count_parameters(module: nn.Module) -> int:
    """Numbers in all parameters, those that are not trained included."""
    return sum(parameter.numel() for parameter in module.parameters())


def count_multiply_adds(net: nn.Module, size: tuple[int, int]) -> int:
    """Multiply-adds of convolutions and matrix products for one image of `size` (H, W), counted by PyTorch without
    computing.

    PyTorch counts two operations for each; interpolation, pooling and norms are left out, as the papers do.
    """
    modes = {module: module.training for module in net.modules()}
    like = next(net.parameters())
    net.eval()
    with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True), FlopCounterMode(display=False) as counter:
        net(torch.empty(1, 3, *size, dtype=like.dtype, device=like.device))
    for module, training in modes.items():  # each its own: frozen norms stay frozen
        module.training = training
    return counter.get_total_flops() // 2


def measure_cost(net: nn.Module, size: tuple[int, int]) -> dict[str, Any]:
    """What summary.json says of it: `params`, `flops` (multiply-adds) and `flops_size`, the (H, W) they hold for, which
    is `size`, small sides padded."""
    height, width = (max(side, MIN_SIDE) for side in size)
    flops = count_multiply_adds(net, (height, width))
    return {"params": count_parameters(net), "flops": flops, "flops_size": [height, width]}
