"""Where the config files are: `conf/` at the top of the checkout, or its copy inside an installed wheel."""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
CONFIG_FOLDER = next(
    (folder for folder in (_PACKAGE / "conf", _PACKAGE.parents[1] / "conf") if folder.is_dir()), _PACKAGE / "conf"
)
