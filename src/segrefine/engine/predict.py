"""Segmenting images that have no labels: `predict.py`."""

import logging
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from segrefine.core.errors import UserError
from segrefine.data.submission import check_benchmark
from segrefine.engine.callbacks.pictures import write_pictures
from segrefine.engine.precision import autocast_dtype, choose_device
from segrefine.io.images import EXTENSIONS, list_images, read_image
from segrefine.models.encoders.base import pad_small
from segrefine.models.network import SegmentationModel
from segrefine.models.tta import Inference
from segrefine.weights.checkpoint import Checkpoint, read_checkpoint, restore

log = logging.getLogger(__name__)

WHOLE_PIXELS = 2**22
"""Larger images (2048x2048) go through windows unless told otherwise: whole, their feature maps would not fit in
memory.
"""

WINDOW = 1024
"""Size of those windows, pixels: wider than the receptive fields of the networks (VGG-16's fc7 sees 404 pixels)."""


def predict(cfg: DictConfig, checkpoint: Checkpoint | None = None) -> int:
    """Segment every image as `conf/predict.yaml` says; returns how many could not be read, each named in the log.

    `checkpoint` is what `cfg.checkpoint` holds, if that was read before.
    """
    for option in ("checkpoint", "input", "output"):
        if cfg[option] is None:
            raise UserError(f"Give {option}=PATH. segrefine predict --help says more.")
    options: Any = OmegaConf.to_container(cfg)
    paths = list_images(Path(cfg.input), ignored_folder=Path(cfg.output))
    if not paths:
        raise UserError(f"input={cfg.input} holds no image files ({', '.join(EXTENSIONS)}).")
    checkpoint = checkpoint or read_checkpoint(Path(cfg.checkpoint))
    net = restore(checkpoint, options["model"], options["backbone"])
    check_benchmark(cfg.submission, net.num_classes)
    device = choose_device(cfg.device)
    net.eval().to(device).lay_out(device)
    autocast = autocast_dtype(cfg.precision, device)
    whole, tiled = (
        Inference(net, **options["tta"], window=window) for window in (options["window"], options["window"] or WINDOW)
    )
    bad = 0
    for path, name in zip(paths, _names(paths), strict=True):
        try:
            image = read_image(path)
        except UserError as error:
            log.error(f"skipped: {error}")
            bad += 1
            continue
        with torch.autocast(device.type, autocast, enabled=autocast is not None):
            labels = segment(net, whole if image[0].numel() <= WHOLE_PIXELS else tiled, image.to(device))
        write_pictures(Path(cfg.output), name, image, labels.cpu(), net.palette, cfg.submission)
        log.info(f"{path}: {image.shape[2]}x{image.shape[1]}")
    log.info(f"{len(paths) - bad} of {len(paths)} images segmented, in {cfg.output}")
    return bad


@torch.inference_mode()
def segment(net: SegmentationModel, inference: Inference, image: Tensor) -> Tensor:
    """Class map (H, W) uint8 of an image (3, H, W) uint8 RGB of any size, of at least one pixel.

    A side below 32 pixels is continued by its last row or column, and the continuation cut off again.
    """
    height, width = image.shape[1:]
    images = pad_small(net.preprocess(image[None].float() / 255))
    classes = inference.classes(images.contiguous(memory_format=net.layout))
    return classes[0, :height, :width]


def _names(paths: list[Path]) -> list[str]:
    """The files' stems, or whole names where stems repeat (a.jpg and a.png), so that no result overwrites another."""
    stems = [path.stem for path in paths]
    return [stem if stems.count(stem) == 1 else path.name for stem, path in zip(stems, paths, strict=True)]
