"""Segment images that have no labels, for `segrefine predict`."""

import logging
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any, get_args

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, OmegaConf
from torch import Tensor
from torch.utils.data import DataLoader

from segrefine.core.channels import RGB
from segrefine.core.errors import UserError, listing
from segrefine.core.signals import StopRequest
from segrefine.data.submission import check_benchmark
from segrefine.engine.callbacks.pictures import LEGEND, picture_paths, write_legend, write_pictures
from segrefine.engine.precision import choose_device
from segrefine.engine.trainer import create_trainer
from segrefine.io.images import EXTENSIONS, EXTRA, Channels, list_images, read_channels
from segrefine.models.crf import create_refinement
from segrefine.models.network import SegmentationModel
from segrefine.models.tta import TestTimeAugmentation
from segrefine.weights.checkpoint import Checkpoint, read_checkpoint, restore

log = logging.getLogger(__name__)

WHOLE_PIXELS = 2**22
"""Larger images (2048x2048) are segmented in windows unless told otherwise: the feature maps of the whole would not fit
in memory.
"""

WINDOW = 1024
"""Size of those windows, pixels: wider than the receptive fields of the networks (VGG-16's fc7 sees 404 pixels)."""

Files = list[tuple[str, Path, Path | None]]
"""Each image's name, its file, and the file of its channels behind RGB if the network takes any."""

Photo = tuple[str, Path, Tensor | str]
"""An image's name and path, and its pixels (C, H, W) uint8 or, for a file that cannot be read, the reason."""


def predict(cfg: DictConfig, checkpoint: Checkpoint | None = None) -> int:
    """Segment every image as `conf/predict.yaml` says; `checkpoint` is as in `evaluate`.

    Return how many images could not be read, each named in the log; of several processes the first one knows.
    """
    for option in ("checkpoint", "input", "output"):
        if cfg[option] is None:
            raise UserError(f"Give {option}=PATH. segrefine predict --help says more.")
    options: Any = OmegaConf.to_container(cfg)
    output = Path(cfg.output).expanduser()
    named = _name(list_images(Path(cfg.input).expanduser(), ignored_folder=output))
    if not named:
        raise UserError(f"input={cfg.input} holds no image files ({', '.join(EXTENSIONS)}).")
    checkpoint = checkpoint or read_checkpoint(Path(cfg.checkpoint))
    net = restore(checkpoint, options["model"], options["backbone"]).eval()
    files = _add_extra(named, cfg.extra, net.in_channels)
    _keep_inputs(files, output, cfg.submission)
    check_benchmark(cfg.submission, net.num_classes)
    views = options["tta"] | {"refine": create_refinement(net, options["post"], options["crf"])}
    module = Segmenter(net, files, views, options["window"])
    with StopRequest() as stop:
        writer = PhotoWriter(output, cfg.submission, stop)
        machine = {"accelerator": choose_device(cfg.device).type, "devices": cfg.devices, "precision": cfg.precision}
        trainer = create_trainer(machine | {"enable_progress_bar": False}, output, [writer], prefix="")
        trainer.predict(module, return_predictions=False)
    bad = torch.tensor(writer.bad, device=trainer.strategy.root_device)
    bad = trainer.strategy.reduce(bad, reduce_op="sum")  # type: ignore[assignment]
    if not trainer.is_global_zero:
        return 0  # Lightning ends all processes where one of the others fails
    log.info(f"classes of this network: {listing(net.classes, 12)}")
    log.info(f"{len(files) - int(bad)} of {len(files)} images segmented, in {cfg.output}")
    return int(bad)


class Segmenter(LightningModule):
    """Reads images and segments them by `views` and `window`, options of `TestTimeAugmentation`."""

    def __init__(self, net: SegmentationModel, files: Files, views: dict[str, Any], window: Any) -> None:
        super().__init__()
        self.allow_zero_length_dataloader_with_multiple_devices = True  # fewer images than processes
        self.net, self.files = net, files
        self.whole, self.tiled = (
            TestTimeAugmentation(net, **views, window=given) for given in (window, window or WINDOW)
        )

    def setup(self, stage: str) -> None:
        self.net.lay_out(self.trainer.strategy.root_device)

    def predict_dataloader(self) -> DataLoader[Photo]:
        """Return this process's share of the images: every `world_size`-th one."""
        share: Any = range(self.trainer.global_rank, len(self.files), self.trainer.world_size)
        read: Any = partial(_read, in_channels=self.net.in_channels)
        return DataLoader(self.files, batch_size=None, sampler=share, collate_fn=read)  # type: ignore[arg-type]

    def predict_step(self, photo: Photo, index: int) -> Tensor | str:
        """Return the class map (H, W) uint8, or the reason why there is none."""
        image = photo[2]
        if isinstance(image, str):
            return image
        return segment(self.net, self.whole if image[0].numel() <= WHOLE_PIXELS else self.tiled, image)


class PhotoWriter(Callback):
    """Writes the pictures of every image and their legend, and counts in `bad` the files that could not be read."""

    def __init__(self, folder: Path, submission: str | None, stop: StopRequest) -> None:
        self.folder, self.submission, self.stop, self.bad = folder, submission, stop, 0

    def on_predict_start(self, trainer: Trainer, module: LightningModule) -> None:
        self.stop.listen()  # Lightning would continue after SIGTERM

    def on_predict_batch_end(self, trainer: Trainer, module: Any, outputs: Any, batch: Any, *_: Any) -> None:
        name, path, image = batch
        if isinstance(image, str):
            self.bad += 1
            log.error(f"skipped: {image}")
            return
        write_pictures(self.folder, name, image.cpu(), outputs.cpu(), module.net.palette, self.submission)
        log.info(f"{path}: {image.shape[2]}x{image.shape[1]}")

    @rank_zero_only
    def on_predict_end(self, trainer: Trainer, module: Any) -> None:
        if self.submission is None:
            write_legend(self.folder, module.net.classes, module.net.palette)


@torch.inference_mode()
def segment(net: SegmentationModel, inference: TestTimeAugmentation, image: Tensor) -> Tensor:
    """Compute the class map (H, W) uint8 of an image (C, H, W) uint8 of any size, of at least one pixel.

    A side below 32 pixels is extended by its last row or column, and the extension is cut off the result.
    """
    height, width = image.shape[1:]
    return inference.classes(net.from_pixels(image[None]))[0, :height, :width]


def _read(file: tuple[str, Path, Path | None], in_channels: int) -> Photo:
    name, image, extra = file
    try:
        return name, image, read_channels(image, extra, in_channels)
    except UserError as error:
        return name, image, str(error)


def _add_extra(files: dict[str, Path], extra: str | None, in_channels: int) -> Files:
    """Pair the images with the files of their channels behind RGB, by their stems.

    An image without such a file gets a name that is not there, which reading then reports. UserError if `extra` is
    missing, or the network has no use for it.
    """
    if in_channels not in get_args(Channels):
        raise UserError(f"Images of 1, 3, 4 or 6 channels can be read; the network takes {in_channels}.")
    if in_channels <= RGB:
        if extra is not None:
            raise UserError(f"extra={extra}: the network takes in_channels={in_channels}, and none of another file.")
        return [(name, path, None) for name, path in files.items()]
    kind = EXTRA[in_channels]
    if extra is None:
        raise UserError(
            f"The network takes images of in_channels={in_channels}. Give extra=FOLDER with a {kind} image for each "
            "image, of the same name."
        )
    place = Path(extra).expanduser()
    behind = list_images(place)
    if place.is_file() and len(files) == 1:
        return [(name, path, behind[0]) for name, path in files.items()]
    stems = {path.stem: path for path in behind}
    return [(name, path, stems.get(path.stem, place / f"{path.stem}.*")) for name, path in files.items()]


def _name(paths: list[Path]) -> dict[str, Path]:
    """Name the files of a folder by their stems, or by their whole names if a stem is another file's stem or name.

    So no result overwrites another, for example with a.jpg, a.png and a.jpg.png.
    """
    taken = Counter(word for path in paths for word in {path.stem, path.name})
    return {path.stem if taken[path.stem] == 1 else path.name: path for path in paths}


def _keep_inputs(files: Files, output: Path, submission: str | None) -> None:
    """Raise UserError if a result would overwrite one of the images."""
    inputs = {path.resolve() for _, *paths in files for path in paths if path is not None}
    written = [path for name, *_ in files for path in picture_paths(output, name, submission)]
    for path in written if submission else [*written, output / LEGEND]:
        if path.resolve() in inputs:
            raise UserError(f"output={output}: {path.name} would overwrite an input image. Give another folder.")
