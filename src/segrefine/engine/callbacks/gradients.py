"""The norm of the gradient by part of the network."""

from typing import Any

import torch
from lightning import Callback, Trainer
from torch.optim import Optimizer


class GradientNorms(Callback):
    """Logs `gradient/encoder_stage1` to `5` and `gradient/decoder`: the norm of the gradient there, before clipping."""

    def on_before_optimizer_step(self, trainer: Trainer, module: Any, optimizer: Optimizer) -> None:
        # A fused optimizer takes float16's loss scale out of the gradients by itself, later.
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        scale = scaler.get_scale() if scaler and getattr(optimizer, "_step_supports_amp_scaling", False) else 1.0
        parts = {f"encoder_stage{number}": stage for number, stage in enumerate(module.net.encoder.stages, 1)}
        for name, layers in {**parts, "decoder": [module.net.decoder]}.items():
            gradients = [p.grad for layer in layers for p in layer.parameters() if p.grad is not None]
            module.step_values[f"gradient/{name}"] = torch.nn.utils.get_total_norm(gradients) / scale
