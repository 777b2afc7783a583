"""Run `segrefine data`: check a data set and report its content, or show a picture of it."""

import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from omegaconf import DictConfig, OmegaConf

from segrefine.cli.command import run_command
from segrefine.core.errors import BadFileError, UserError
from segrefine.core.options import Count
from segrefine.core.text import printable


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of `conf/data.yaml` besides its group."""

    command: Literal["check", "show"] | None
    write_exclude: str | None
    output: str | None
    split: Literal["train", "val", "test"]
    count: Count


def task(cfg: DictConfig, folder: Path) -> None:
    """Check or show the data set."""
    if cfg.command is None:
        raise UserError("Name the command first: segrefine data check, or segrefine data show.")
    run_check(cfg) if cfg.command == "check" else run_show(cfg)


def run_check(cfg: DictConfig) -> None:
    """Print the content of the data set. Exit with status 1 if files are bad."""
    from segrefine.data.check import check, render
    from segrefine.data.exclude import write_exclude

    file = None if cfg.write_exclude is None else Path(str(cfg.write_exclude)).expanduser()
    if file and (file.exists() or cfg.datamodule.get("exclude")):
        raise UserError(
            f"write_exclude={file} lists every bad example in a new file. Give a name that is not taken, and no "
            "datamodule.exclude."
        )
    if file and cfg.datamodule.get("folds"):
        raise UserError("write_exclude names images by the data's own splits. Remove datamodule.fold and folds.")
    datamodule = _build(cfg)
    reports = check(datamodule)
    print(printable(render(reports, datamodule.classes)))
    if file and any(report.bad for report in reports):
        write_exclude(file, [(report.split, *bad) for report in reports for bad in report.bad.items()])
        print(printable(f"To skip the bad files: datamodule.exclude={file}"))
    if any(report.bad for report in reports):
        sys.exit(1)


def run_show(cfg: DictConfig) -> None:
    """Write the contact sheet."""
    from segrefine.core.channels import to_rgb
    from segrefine.data.files import evenly_spaced
    from segrefine.io.images import EXTENSIONS, save_image
    from segrefine.viz import contact_sheet

    if cfg.output is None:
        raise UserError("Give output=FILE.png, where the picture goes.")
    output = Path(str(cfg.output)).expanduser()
    if output.suffix.lower() not in EXTENSIONS:
        raise UserError(f"output={output} should end in one of {', '.join(EXTENSIONS)}.")
    datamodule = _build(cfg)
    if cfg.split == "test" and not datamodule.has_test:
        raise UserError(f"datamodule={cfg.datamodule.name} has no labels for split=test here. Use split=val.")
    dataset = datamodule.dataset(cfg.split)
    chosen, examples = evenly_spaced(len(dataset), cfg.count), []
    for index in chosen:
        with suppress(BadFileError):
            examples.append(dataset.read(index))
    if not examples:
        raise UserError(f"None of the {len(chosen)} images can be shown. segrefine data check says why.")
    images = [to_rgb(image).permute(1, 2, 0).numpy() for image, _ in examples]
    sheet = contact_sheet(images, [label.numpy() for _, label in examples], datamodule.palette, datamodule.classes)
    save_image(sheet, output)
    print(printable(f"{len(examples)} of {len(dataset)} images of {cfg.split}: {output}"))


def _build(cfg: DictConfig) -> Any:
    from segrefine.data.build import build_datamodule

    options: Any = OmegaConf.to_container(cfg.datamodule, resolve=True)
    return build_datamodule(options)


def main() -> None:
    """Run the command. Its first argument is `check` or `show`, without an option name."""
    words = sys.argv[1:]
    if not words:
        sys.argv.append("--help")
    elif not words[0].startswith("-") and "=" not in words[0]:
        sys.argv[1] = f"command={words[0]}"
    run_command("data", task, Options)


if __name__ == "__main__":
    main()
