"""Optimisers over the parameter groups that the two papers tell apart: encoder and decoder, weights and biases."""

from typing import Any

import torch
from torch import nn

from segrefine.errors import UserError, did_you_mean

OPTIMIZERS = ("sgd", "adamw")


def parameter_groups(
    net: nn.Module,
    lr: float,
    weight_decay: float,
    encoder_lr_multiplier: float = 1.0,
    bias_lr_multiplier: float = 1.0,
    bias_decay: bool = True,
) -> list[dict[str, Any]]:
    """Groups named encoder/weights, encoder/biases, decoder/weights and decoder/biases; frozen parameters in none.

    A group's rate is `lr`, times `encoder_lr_multiplier` in the encoder, times `bias_lr_multiplier` for biases; biases
    decay only with `bias_decay`. An empty group is left out, so a rate is never reported for nothing.
    """
    groups = []
    for part in ("encoder", "decoder"):
        parameters_of_part = getattr(net, part).named_parameters()
        trained = [(name, parameter) for name, parameter in parameters_of_part if parameter.requires_grad]
        rate = lr * (encoder_lr_multiplier if part == "encoder" else 1.0)
        biases = [parameter for name, parameter in trained if name.endswith("bias")]
        weights = [parameter for name, parameter in trained if not name.endswith("bias")]
        for kind, parameters, factor, decay in (
            ("weights", weights, 1.0, weight_decay),
            ("biases", biases, bias_lr_multiplier, weight_decay if bias_decay else 0.0),
        ):
            if parameters:
                group = {"params": parameters, "lr": rate * factor, "weight_decay": decay, "name": f"{part}/{kind}"}
                groups.append(group)
    return groups


def create_optimizer(
    name: str, groups: list[dict[str, Any]], momentum: float = 0.9, fused: bool = True
) -> torch.optim.Optimizer:
    """SGD with `momentum`, or AdamW with PyTorch's betas, over `parameter_groups`; `fused` is the fastest form."""
    if name == "sgd":
        return torch.optim.SGD(groups, momentum=momentum, fused=fused)
    if name == "adamw":
        return torch.optim.AdamW(groups, fused=fused)
    raise UserError(f"recipe.optimizer={name} is not known.{did_you_mean(name, OPTIMIZERS)}")
