"""Write a network in the format of other code. Every file is read back and compared before it gets its name."""

import logging
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torchvision
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn
from torchvision.transforms import Normalize

from segrefine.core.errors import UserError, did_you_mean
from segrefine.core.extras import require
from segrefine.io.atomic import replacing
from segrefine.models.encoders.base import MEAN, STD
from segrefine.models.network import SegmentationModel
from segrefine.weights.checkpoint import Checkpoint, read_checkpoint, restore
from segrefine.weights.published import FORMS, PublishedFormat, to_published

log = logging.getLogger(__name__)

TOLERANCE = 1e-3
"""The largest difference of the file's outputs, relative to the largest output, that counts as rounding: other code
orders float32 sums differently.
"""

LEAST = 64
"""The least height and width in pixels of an exported network's images, at the smallest scale that the network uses.
Below it some maps are one cell high or wide, for which torch.export would need a separate program.
"""

Network = Callable[[Tensor], Tensor]
"""Images (B, C, H, W) float32 in [0, 1], RGB or of the network's own channels -> logits (B, K, H, W)."""

Export = Callable[[SegmentationModel, dict[str, Any], Path], Network]
"""Writes a network, built from a config of model and backbone, to a path, and returns the network read back from it."""


class FromImages(nn.Module):
    """The network with its image preprocessing: a `Network`."""

    def __init__(self, net: SegmentationModel) -> None:
        super().__init__()
        self.net = net
        self.train(net.training)

    def forward(self, images: Tensor) -> Tensor:
        return self.net(self.net.preprocess(images))


def export(cfg: DictConfig, checkpoint: Checkpoint | None = None) -> None:
    """Write the file that `conf/export.yaml` describes. `checkpoint` is what it names, if that was already read.

    Raises:
        UserError: an option is missing or invalid, or the file does not give the network's outputs.
    """
    for option in ("checkpoint", "format", "output"):
        if cfg[option] is None:
            raise UserError(f"Give {option}=... segrefine export --help says more.")
    if cfg.format not in FORMATS:
        raise UserError(f"There is no format {cfg.format!r}.{did_you_mean(cfg.format, FORMATS)}")
    output = Path(cfg.output).expanduser()
    if output.is_dir():
        raise UserError(f"output={output} is a folder. Give the path of the file to write.")
    checkpoint = checkpoint or read_checkpoint(Path(cfg.checkpoint))
    config: Any = OmegaConf.to_container(cfg)
    net = restore(checkpoint, config["model"], config["backbone"]).eval()
    if net.decoder.crf is not None and cfg.format in PROGRAMS:
        raise UserError(
            f"format={cfg.format} cannot hold model.crf=true: it joins cells in blocks, as many as the size of the "
            "image asks for, and a traced program has the same operations for every size. Predict with segrefine."
        )
    try:
        with replacing(output) as part:
            found = largest_difference(FromImages(net), FORMATS[cfg.format](net, config, part), least_side(net))
            if not found <= TOLERANCE:  # as for NaN
                raise UserError(
                    f"format={cfg.format}: outputs of the file differ from the network's by {found:.2g} of the "
                    "largest, so it was not written."
                )
    except OSError as error:
        raise UserError(f"output={output} cannot be written: {error}") from error
    what = f"{output}: {cfg.format}, {output.stat().st_size / 2**20:.1f} MiB"
    log.info(f"{what}; its outputs differ from the network's by {found:.1e} of the largest")


def least_side(net: SegmentationModel) -> int:
    """Return the least height and width in pixels of an exported network's images."""
    return math.ceil(LEAST / min(net.encoder.scales))


@torch.no_grad()
def largest_difference(network: FromImages, other: Network, least: int = LEAST) -> float:
    """Return the largest difference over the largest output, NaN if one is NaN, on images of `least` pixels and more.

    Raises:
        UserError: the outputs differ in shape.
    """
    generator = torch.Generator().manual_seed(0)
    differences = []
    for batch, height, width in ((2, least + 11, least + 37), (1, least, least + 32)):
        images = torch.rand(batch, network.net.in_channels, height, width, generator=generator)
        expected, found = network(images), other(images)
        if found.shape != expected.shape:
            raise UserError(f"The file gives {tuple(found.shape)} where the network gives {tuple(expected.shape)}.")
        differences.append((found - expected).abs().max() / expected.abs().max().clamp(min=1e-12))
    return torch.stack(differences).max().item()


def _published(form: PublishedFormat, net: SegmentationModel, config: dict[str, Any], path: Path) -> Network:
    torch.save(to_published(form, net), path)
    if form.name in TORCHVISION:
        return _torchvision_network(f"{TORCHVISION[form.name]}_{config['backbone']['name']}", path)
    return FromImages(restore(read_checkpoint(path), config["model"], config["backbone"]).eval())


TORCHVISION = {"torchvision": "fcn", "torchvision_deeplabv3": "deeplabv3"}
"""Formats whose outcome torchvision's own networks read, and the beginnings of their names."""


def _torchvision_network(name: str, path: Path) -> Network:
    """Return torchvision's own network, filled from the file."""
    build = getattr(torchvision.models.segmentation, name, None)
    if build is None:
        raise UserError(f"There is no {name} in torchvision.")
    tensors = torch.load(path, weights_only=True)
    classes = len(tensors["classifier.4.weight"])
    network = build(weights=None, weights_backbone=None, num_classes=classes, aux_loss=False).eval()
    network.load_state_dict(tensors)
    normalize = Normalize(MEAN, STD)
    return lambda images: network(normalize(images))["out"]


def _onnx(net: SegmentationModel, config: dict[str, Any], path: Path) -> Network:
    onnxruntime, _ = (require(name, "export", "format=onnx") for name in ("onnxruntime", "onnxscript"))
    if any(isinstance(part, nn.AdaptiveAvgPool2d) and part.output_size not in (1, (1, 1)) for part in net.modules()):
        raise UserError(
            "format=onnx: the network pools to a fixed number of cells for any image size, and ONNX has no operator "
            "for that. Use format=torch_export."
        )
    for name in ("onnxscript", "onnx_ir", "torch.onnx"):
        logging.getLogger(name).setLevel(logging.WARNING)  # they tell of every node that they improve
    program = _program(net)  # of a network, PyTorch's own capture gets RefineNet's two scales wrong
    names: dict[str, Any] = {"input_names": ["images"], "output_names": ["logits"]}
    torch.onnx.export(program, (), path, dynamo=True, external_data=False, verbose=False, **names)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


def _torch_export(net: SegmentationModel, config: dict[str, Any], path: Path) -> Network:
    torch.export.save(_program(net), path)
    return torch.export.load(path).module()


def _program(net: SegmentationModel) -> torch.export.ExportedProgram:
    """Trace the network for any number of images of any size from `least_side` up."""
    least, generator = least_side(net), torch.Generator().manual_seed(1)
    example = torch.rand(2, net.in_channels, least + 33, least + 66, generator=generator)
    free = dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC)
    return torch.export.export(FromImages(net), (example,), dynamic_shapes=(free,))


PROGRAMS: dict[str, Export] = {"onnx": _onnx, "torch_export": _torch_export}

FORMATS: dict[str, Export] = {form.name: partial(_published, form) for form in FORMS} | PROGRAMS
