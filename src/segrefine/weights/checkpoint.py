"""Read checkpoints with what is stored beside the weights, and load them or published weights."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from segrefine.core.channels import RGB
from segrefine.core.errors import UserError
from segrefine.core.labels import voc_color_map
from segrefine.core.registry import rename_classes
from segrefine.io.tensors import find_tensors, misfits, read_file, read_tensors
from segrefine.models.build import build_model
from segrefine.models.network import SegmentationModel
from segrefine.runs.folder import RunFolder
from segrefine.weights.published import AUXILIARY, INPUT_TENSORS, from_published, recognize

log = logging.getLogger(__name__)

KEY = "segrefine"
"""The entry of a Lightning checkpoint under which `describe` is stored."""

_PREFIX = "net."  # the network's name in the LightningModule


@dataclass(frozen=True)
class Checkpoint:
    """A file of weights: the network's tensors, and what the file says about them.

    A checkpoint of a run is complete: its resolved config, class names, palette (K, 3) uint8 RGB. A file of weights
    alone leaves `config` and `classes` empty. Its palette is VOC's, for as many classes as its published format shows,
    or for none.
    """

    path: Path
    config: dict[str, Any]
    classes: list[str]
    palette: np.ndarray
    tensors: dict[str, Tensor]

    @property
    def in_channels(self) -> int:
        """The channels of the images that the network takes: 3, RGB, where the file does not say."""
        return count_channels(self.tensors) or RGB


def describe(config: dict[str, Any], classes: list[str], palette: np.ndarray) -> dict[str, Any]:
    """Return a checkpoint's description of itself in plain containers, which PyTorch's weights-only loader can read."""
    return {"config": config, "classes": list(classes), "palette": palette.tolist()}


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint of a run, or any file of weights.

    Raises:
        UserError: the file is neither.
    """
    content = read_file(path)
    tensors = _network(find_tensors(content, path))
    if KEY in content:
        try:
            about = content[KEY]
            palette = np.asarray(about["palette"], np.uint8).reshape(len(about["classes"]), 3)
            return Checkpoint(path, rename_classes(dict(about["config"])), list(about["classes"]), palette, tensors)
        except UserError:
            raise
        except (TypeError, KeyError, ValueError, OverflowError) as error:
            raise UserError(f"{path} is damaged: its description of the run cannot be read ({error!r}).") from error
    form = recognize(tensors)
    scores = None if form is None else tensors.get(form.scores)
    return Checkpoint(path, {}, [], voc_color_map(len(scores) if scores is not None and scores.ndim else 0), tensors)


def restore(
    checkpoint: Checkpoint, model: dict[str, Any], backbone: dict[str, Any], num_classes: int | None = None
) -> SegmentationModel:
    """Build the network that the config groups `model` and `backbone` describe, with the checkpoint's weights.

    The backbone's own file of weights is not needed. The number of classes is the checkpoint's, unless given.

    Raises:
        UserError: the model, the backbone or the number of classes is unknown, or the weights do not fit.
    """
    if None in (model.get("name"), backbone.get("name")):
        form = recognize(checkpoint.tensors)
        what = "weights alone" if form is None else f"weights of {form.title}"
        options = "model=NAME backbone=NAME" if form is None else form.options
        raise UserError(f"{checkpoint.path} holds {what}. Say for which network: {options}.")
    num_classes = num_classes or len(checkpoint.palette)
    if not num_classes:
        raise UserError(f"{checkpoint.path} does not say how many classes it has. Give {RunFolder.BEST} of a run.")
    net = build_model(model, backbone | {"weights": None}, num_classes, checkpoint.in_channels)
    fill(net, checkpoint.tensors, checkpoint.path)
    net.drop_auxiliary()
    if checkpoint.classes:
        net.classes, net.palette = checkpoint.classes, checkpoint.palette
    return net


def load_model(path: str | Path) -> SegmentationModel:
    """Build the network of a run's checkpoint, in eval mode.

    Args:
        path: a checkpoint of a run, such as checkpoints/best.ckpt.

    Returns:
        The network, with the `classes`, `palette` and `num_classes` that it was trained for, without auxiliary heads.

    Raises:
        UserError: The file holds weights alone. `create_model` and `load_weights` accept those.
    """
    return restore_run(read_checkpoint(Path(path)))


def restore_run(checkpoint: Checkpoint) -> SegmentationModel:
    """Build the network of a run's checkpoint that was read, as `load_model` does."""
    if not checkpoint.config:
        raise UserError(
            f"{checkpoint.path} does not say which network it belongs to. Use create_model(...), then "
            "load_weights(net, PATH)."
        )
    return restore(checkpoint, checkpoint.config["model"], checkpoint.config["backbone"]).eval()


def load_weights(net: SegmentationModel, path: str | Path, strict: bool = True) -> None:
    """Fill `net` from a file: a checkpoint of a run, the network's own `state_dict`, or published weights.

    Published formats (`segrefine.weights.published`) are recognized by the names of their tensors: pytorch-fcn's .pth
    and Caffe's .caffemodel of FCN-32s, 16s, 8s and at-once; refinenet-pytorch; light-weight-refinenet; torchvision's
    fcn_resnet50 and 101, deeplabv3_resnet50 and 101. With them `net.preprocess` maps ordinary RGB images to the input
    that the weights expect. Auxiliary heads are taken where file and network both have them, and left out otherwise.

    Args:
        net: the network to fill.
        path: the file.
        strict: whether every tensor must fit. With False, the tensors that fit are loaded and the log lists the others.

    Raises:
        UserError: a tensor is missing, unknown or of another shape. The message names those that do not fit, and `net`
            stays as it was.
    """
    path = Path(path)
    fill(net, _network(read_tensors(path)), path, strict)


def fill(net: SegmentationModel, tensors: dict[str, Tensor], path: Path, strict: bool = True) -> None:
    """Load tensors that were read from `path`, as `load_weights` does."""
    form, channels = recognize(tensors), count_channels(tensors)
    if form is None and strict and channels not in (None, net.in_channels):
        raise UserError(
            f"{path} is of a network with in_channels={channels}; this one takes {net.in_channels}. Give the same "
            "(datamodule.in_channels), or strict=false to start the first convolution at random."
        )
    state = net.state_dict()
    if form is not None:
        tensors, problems = from_published(form, net, tensors, path)
    else:
        tensors = {name: value for name, value in tensors.items() if name in state or not name.startswith(AUXILIARY)}
        optional = [name for name in state if name in INPUT_TENSORS or name.startswith(AUXILIARY)]
        problems = misfits(state, tensors, optional)
    if problems and strict:
        raise UserError(f"{path} does not fit the network. {problems}.")
    fitting = {name: value for name, value in tensors.items() if name in state and value.shape == state[name].shape}
    net.load_state_dict(fitting, strict=False)
    if problems:
        log.warning(f"{path}: {len(fitting)} of the network's {len(state)} tensors taken. {problems}.")


def count_channels(tensors: Mapping[str, Tensor]) -> int | None:
    """Return the channels of a network's images, which its mean has; None for tensors without one."""
    mean = tensors.get("mean")
    return len(mean) if mean is not None and mean.ndim == 3 else None


def _network(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the network's tensors. In a LightningModule their names have a prefix."""
    inside = {name[len(_PREFIX) :]: tensor for name, tensor in tensors.items() if name.startswith(_PREFIX)}
    return inside or tensors
