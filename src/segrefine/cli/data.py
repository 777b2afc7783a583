"""`segrefine data`: check reads a data set through and reports what it holds, show makes a picture of it."""

import sys
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import OmegaConf

from segrefine.cli.failures import explain_failure
from segrefine.cli.options import explain, register_plugins
from segrefine.core.config import CONFIG_FOLDER, list_names
from segrefine.core.errors import UserError, did_you_mean
from segrefine.core.text import printable
from segrefine.data.build import build_datamodule
from segrefine.data.check import check, render
from segrefine.data.datamodule import SPLITS, SegmentationDataModule
from segrefine.data.dataset import LeftOut
from segrefine.data.files import spread
from segrefine.io.images import save_image
from segrefine.viz import contact_sheet

HELP = """Usage: segrefine data check [datamodule=NAME] [datamodule.OPTION=VALUE ...]
       segrefine data show output=FILE.png [split=train] [count=12] [datamodule=NAME] ...

check reads every image and label of every split and reports their sizes, how much of the pixels each class has, the
weights of median frequency balancing, and every file that cannot be used, by name. The exit status is 1 if there is
any.

show writes a picture of a few images, spread over the split, beside their coloured labels, with the classes' names.

datamodule: one of {names} (shapes if not given)
options: those of conf/datamodule/NAME.yaml, such as datamodule.root=FOLDER

Example: segrefine data check datamodule=camvid datamodule.root=data/CamVid"""

COMMANDS = ("check", "show")


def run(arguments: list[str]) -> int:
    """Run the command and return its exit status: 0 all well, 1 bad files, 2 a mistake in the call."""
    names = list_names("datamodule")
    if not arguments or {"-h", "--help"} & set(arguments):
        print(HELP.format(names=", ".join(names)))
        return 0
    command, *overrides = arguments
    try:
        if command not in COMMANDS:
            raise UserError(f"There is no command '{command}'.{did_you_mean(command, COMMANDS)}")
        if command == "show":
            return show(overrides, names)
        datamodule = build(overrides, names)
        reports = check(datamodule)
    except (UserError, OSError) as error:
        explained = error if isinstance(error, UserError) else explain_failure(error)
        if explained is None:
            raise
        print(f"error: {explained}", file=sys.stderr)
        return 2
    print(printable(render(reports, datamodule.classes)))
    return 1 if any(report.bad for report in reports) else 0


def show(arguments: list[str], names: list[str]) -> int:
    """Writes the contact sheet; raises UserError."""
    given = dict(argument.partition("=")[::2] for argument in arguments)
    own = {name: value for name, value in given.items() if name in ("output", "split", "count")}
    datamodule = build([argument for argument in arguments if argument.split("=")[0] not in own], names)
    output, split, count = own.get("output"), own.get("split", "train"), own.get("count", "12")
    if output is None:
        raise UserError("Give output=FILE.png, where the picture goes.")
    if split not in SPLITS:
        raise UserError(f"There is no split '{split}'.{did_you_mean(split, SPLITS)}")
    if not count.isdecimal() or int(count) < 1:
        raise UserError(f"count={count} should be a whole number, 1 or more.")
    dataset = datamodule.dataset(split)
    found = [dataset.attempt(dataset.read, index) for index in spread(len(dataset), int(count))]
    examples = [example for example in found if not isinstance(example, LeftOut)]
    if not examples:
        raise UserError(f"None of the {len(found)} images can be shown. segrefine data check says why.")
    images = [image.permute(1, 2, 0).numpy() for image, _ in examples]
    sheet = contact_sheet(images, [label.numpy() for _, label in examples], datamodule.palette, datamodule.classes)
    save_image(sheet, Path(output))
    print(f"{len(examples)} of {len(dataset)} images of {split}: {output}")
    return 0


def build(overrides: list[str], names: list[str]) -> SegmentationDataModule:
    """The data module that the overrides describe; raises UserError."""
    chosen = [override.partition("=")[2] for override in overrides if override.startswith("datamodule=")]
    name = chosen[-1] if chosen else "shapes"
    if name not in names:
        raise UserError(f"There is no datamodule '{name}'.{did_you_mean(name, names)}")
    options = [override for override in overrides if not override.startswith("datamodule=")]
    try:
        register_plugins()
        with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
            config = compose(overrides=[f"+datamodule={name}", *options])
    except HydraException as error:
        raise UserError(explain(error)) from error
    plain: Any = OmegaConf.to_container(config.datamodule, resolve=True, throw_on_missing=True)
    return build_datamodule(plain)


def main() -> None:
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
