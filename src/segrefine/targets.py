"""Classes that configs name by `_target_`. A config may come from others, within a checkpoint too, so it can name
nothing but classes of ours, or of packages that the user trusts, of the kind that its place asks for.
"""

import importlib
import os
from typing import TypeVar

from segrefine.errors import UserError

TRUST = "SEGREFINE_TRUST"
"""The environment variable that names further packages whose classes configs may name, with commas between."""

Base = TypeVar("Base")


def find_class(option: str, target: object, base: type[Base]) -> type[Base]:
    """The subclass of `base` that `target`, "package.module.Class", names; UserError, before anything is imported, for
    one of a package that is not trusted.

    Args:
        option: the config's entry that named it, for messages.
    """
    module, _, name = str(target).rpartition(".")
    package = module.partition(".")[0]
    trusted = {"segrefine", *os.environ.get(TRUST, "").replace(" ", "").split(",")}
    if not package or package not in trusted:
        raise UserError(
            f"{option}={target} is no class of segrefine. To let configs use classes of another package, which runs "
            f"its code, name it in the environment: {TRUST}={package or 'PACKAGE'}."
        )
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UserError(f"{option}={target} cannot be imported: {error}.") from error
    if not (isinstance(found, type) and issubclass(found, base)):
        raise UserError(f"{option}={target} is no {base.__name__}, which is what {option.partition('.')[0]} takes.")
    return found
