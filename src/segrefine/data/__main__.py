"""`python -m segrefine.data check`: reads a data set through and reports what it holds."""

import sys

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException

from segrefine.cli import explain
from segrefine.configs import CONFIG_FOLDER
from segrefine.data import create_datamodule
from segrefine.data.check import check, render
from segrefine.data.datamodule import SegmentationDataModule
from segrefine.errors import UserError, did_you_mean

HELP = """Usage: python -m segrefine.data check [datamodule=NAME] [datamodule.OPTION=VALUE ...]

Reads every image and label of every split and reports their sizes, how much of the pixels each class has, the weights
of median frequency balancing, and every file that cannot be used, by name. The exit status is 1 if there is any.

datamodule: one of {names} (shapes if not given)
options: those of conf/datamodule/NAME.yaml, such as datamodule.root=FOLDER

Example: python -m segrefine.data check datamodule=camvid datamodule.root=data/CamVid"""


def main(arguments: list[str]) -> int:
    """Runs the command and returns its exit status: 0 all well, 1 bad files, 2 a mistake in the call."""
    names = sorted(path.stem for path in (CONFIG_FOLDER / "datamodule").glob("*.yaml"))
    if not arguments or {"-h", "--help"} & set(arguments):
        print(HELP.format(names=", ".join(names)))
        return 0
    command, *overrides = arguments
    try:
        if command != "check":
            raise UserError(f"There is no command '{command}'.{did_you_mean(command, ['check'])}")
        datamodule = build(overrides, names)
        reports = check(datamodule)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(render(reports, datamodule.classes))
    return 1 if any(report.bad for report in reports) else 0


def build(overrides: list[str], names: list[str]) -> SegmentationDataModule:
    """The data module that the overrides describe; raises UserError."""
    chosen = [override.partition("=")[2] for override in overrides if override.startswith("datamodule=")]
    name = chosen[-1] if chosen else "shapes"
    if name not in names:
        raise UserError(f"There is no datamodule '{name}'.{did_you_mean(name, names)}")
    options = [override for override in overrides if not override.startswith("datamodule=")]
    try:
        with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
            config = compose(overrides=[f"+datamodule={name}", *options])
    except HydraException as error:
        raise UserError(explain(error)) from error
    return create_datamodule(config.datamodule)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
