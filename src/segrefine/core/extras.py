"""Packages that not every installation has."""

import importlib
from typing import Any

from segrefine.core.errors import UserError


def require(module: str, extra: str, option: str) -> Any:
    """Import a module of a package that an extra installs.

    Args:
        module: its dotted name.
        extra: the extra of pyproject.toml that brings the package.
        option: what was asked for, such as `backbone=timm`.

    Raises:
        UserError: The package is missing.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(f'{option} needs packages that are not installed: pip install -e ".[{extra}]".') from error
