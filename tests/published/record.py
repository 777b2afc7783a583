"""Records what the published code computes: `python tests/published/record.py PYTORCH_FCN REFINENET LIGHT_WEIGHT`.

The arguments are checkouts of wkentaro/pytorch-fcn (4b98850), DrSleep/refinenet-pytorch (8f25c07) and
DrSleep/light-weight-refinenet (538fe8b), which are no part of this project. Each network is filled by `rule.py`, run in
float64 on images of `rule.SIZES`, and `NAME.npz` beside this file gets the digests of its outputs, of gradients, and
its number of parameters. A few minutes and 5 GB of memory.
"""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
import torch.nn.functional as F
from rule import SIZES, digest, filled_like, image, labels
from torch import Tensor, nn

CAFFE_MEAN = (104.00699, 116.66877, 122.67892)  # blue, green, red
GRADIENTS = {
    "fcn": ("conv3_2.weight", "fc7.weight"),
    "refinenet": ("layer2.0.conv2.weight", "mflow_conv_g2_pool.0.2_outvar_dimred.weight"),
}


def bgr(rgb: Tensor) -> Tensor:
    """FCN's input: BGR, 0..255, less the mean."""
    return 255 * rgb.flip(1) - torch.tensor(CAFFE_MEAN, dtype=rgb.dtype).view(3, 1, 1)


MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def normalized(rgb: Tensor) -> Tensor:
    """RefineNet's input: torchvision's."""
    mean, std = (torch.tensor(values, dtype=rgb.dtype).view(3, 1, 1) for values in (MEAN, STD))
    return (rgb - mean) / std


Networks = dict[str, tuple[Callable[[], nn.Module], Callable[[Tensor], Tensor]]]


def networks(pytorch_fcn: str, refinenet: str, light_weight: str) -> Networks:
    """Name -> (how the published code builds it, how it prepares RGB in [0, 1])."""
    sys.modules["fcn"] = ModuleType("fcn")  # pytorch-fcn's downloads, not needed here
    package = ModuleType("torchfcn")  # without its data sets and trainer
    package.__path__ = [f"{pytorch_fcn}/torchfcn"]
    sys.modules["torchfcn"] = package
    models = importlib.import_module("torchfcn.models")
    built: Networks = {
        "fcn32s": (models.FCN32s, bgr),
        "fcn16s": (models.FCN16s, bgr),
        "fcn8s": (models.FCN8s, bgr),
        "fcn8s_atonce": (models.FCN8sAtOnce, bgr),
    }
    for folder, names in ((refinenet, {"refinenet_101": "rf101"}), (light_weight, LIGHT_WEIGHT)):
        for module in [name for name in sys.modules if name.split(".")[0] in ("models", "utils")]:
            del sys.modules[module]
        sys.path.insert(0, folder)
        code = importlib.import_module("models.resnet")
        sys.path.remove(folder)
        for name, function in names.items():
            build = getattr(code, function)
            built[name] = (lambda build=build: build(21, pretrained=False), normalized)
    return built


LIGHT_WEIGHT = {f"refinenet_lw_{depth}": f"rf_lw{depth}" for depth in (50, 101, 152)}


def record(build: Callable[[], nn.Module], prepare: Callable[[Tensor], Tensor], inner: tuple[str, str]) -> dict:
    network = build().eval()
    network.load_state_dict(filled_like(network.state_dict()))  # in float32, as in a file of weights
    network.double()
    found = {
        "names": np.array(list(network.state_dict())),
        "parameters": np.array(sum(parameter.numel() for parameter in network.parameters())),
    }
    for size in SIZES:
        with torch.no_grad():
            found["x".join(map(str, size))] = digest(network(prepare(image(size))))
    rgb = image(SIZES[0]).requires_grad_()
    output = network(prepare(rgb))
    size = (output.shape[-2], output.shape[-1])
    tensors = dict(network.named_parameters())
    loss = F.cross_entropy(output, labels(size, output.shape[1]), ignore_index=255)
    gradients = torch.autograd.grad(loss, [rgb, *(tensors[name] for name in inner)])
    for name, gradient in zip(("input", *inner), gradients, strict=True):
        found[f"gradient {name}"] = digest(gradient)
    return found


if __name__ == "__main__":
    for name, (build, prepare) in networks(*sys.argv[1:]).items():
        torch.manual_seed(0)
        found = record(build, prepare, GRADIENTS["fcn" if name.startswith("fcn") else "refinenet"])
        np.savez_compressed(Path(__file__).parent / f"{name}.npz", **found)
        scales = {key: float(np.abs(value).max()) for key, value in found.items() if key != "names"}
        print(name, scales, flush=True)
