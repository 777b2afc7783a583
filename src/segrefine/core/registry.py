"""Look up decoders and data modules by name.

Configs and checkpoints may come from others, so they never name a class to import. They name an entry of these tables.
A user adds one with `register_decoder` or `register_datamodule`, in a module that `SEGREFINE_PLUGINS` names.
"""

import importlib
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from segrefine.core.errors import UserError, did_you_mean

PLUGINS = "SEGREFINE_PLUGINS"
"""The environment variable that names a user's own modules, separated by commas."""

FORMER_DECODERS = {
    "segrefine.decoders.FCNDecoder": "fcn",
    "segrefine.decoders.fcn.FCNDecoder": "fcn",
    "segrefine.decoders.DilatedFCNDecoder": "fcn_dilated",
    "segrefine.decoders.fcn.DilatedFCNDecoder": "fcn_dilated",
    "segrefine.decoders.RefineNetDecoder": "refinenet",
    "segrefine.decoders.refinenet.RefineNetDecoder": "refinenet",
}
"""Class paths under `_target_` in old checkpoints and results, from before there were names, and their names now."""

FORMER_DATAMODULES = {
    "segrefine.data.ade20k.ADE20KDataModule": "ade20k",
    "segrefine.data.camvid.CamVidDataModule": "camvid",
    "segrefine.data.cityscapes.CityscapesDataModule": "cityscapes",
    "segrefine.data.folder.FolderDataModule": "folder",
    "segrefine.data.nyudv2.NYUDv2DataModule": "nyudv2",
    "segrefine.data.pascal_context.PascalContextDataModule": "pascal_context",
    "segrefine.data.person_part.PersonPartDataModule": "person_part",
    "segrefine.data.shapes.ShapesDataModule": "shapes",
    "segrefine.data.siftflow.SIFTFlowDataModule": "siftflow",
    "segrefine.data.sunrgbd.SUNRGBDDataModule": "sunrgbd",
    "segrefine.data.voc.VOCDataModule": "voc",
    "segrefine.data.voc.VOCWithSBDDataModule": "voc_sbd",
}

SUCCESSORS = {"datamodule.on_error": "exclude"}
"""Options of older versions, and their replacements, which get null."""

Class = TypeVar("Class", bound=type)


@dataclass(eq=False)
class Registry:
    """A table of names and their classes."""

    title: str  # what the classes are, for messages
    group: str  # the config group that chooses among them
    key: str  # the entry that holds the name in a file of that group
    home: str  # the module whose import registers the built-in classes
    former: Mapping[str, str]  # class paths that older versions stored, and their names
    _classes: dict[str, Any] = field(default_factory=dict)

    def register(self, name: str) -> Callable[[Class], Class]:
        """Return a decorator that registers a class under `name`.

        Raises:
            UserError: the name is taken by another class. The decorator raises it.
        """

        def enter(cls: Class) -> Class:
            known = self._classes.setdefault(name, cls)
            if (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
                raise UserError(f"The {self.title} name {name!r} is taken by {known.__module__}.{known.__qualname__}.")
            self._classes[name] = cls  # the same class again, from a module that was reloaded
            return cls

        return enter

    def find(self, name: object) -> Any:
        """Return the class called `name`, or raise UserError with the nearest names."""
        importlib.import_module(self.home)
        load_plugins()
        if not isinstance(name, str) or name not in self._classes:
            hint = did_you_mean(str(name), self._classes)
            own = f" If it is your own, name its module in the environment: {PLUGINS}=MODULE."
            raise UserError(f"{self.group}.{self.key}={name} is not a registered {self.title}.{hint}{own}")
        return self._classes[name]

    def name_of(self, cls: type) -> str | None:
        """Return the name that a class is registered under, or None."""
        return next((name for name, known in self._classes.items() if known is cls), None)

    def added(self) -> set[str]:
        """Return the names that users registered."""
        load_plugins()
        return {name for name, cls in self._classes.items() if not cls.__module__.startswith("segrefine.")}

    def rename(self, options: dict[str, Any]) -> dict[str, Any]:
        """Return a config of the group as this version writes it.

        A class path that older versions stored becomes its name, and a removed option becomes its replacement.

        Raises:
            UserError: the class path is unknown.
        """
        gone = {key: new for key in options if (new := SUCCESSORS.get(f"{self.group}.{key}"))}
        options = {gone.get(key, key): None if key in gone else value for key, value in options.items()}
        if "_target_" not in options:
            return options
        load_plugins()
        path = str(options["_target_"])
        added = {f"{cls.__module__}.{cls.__qualname__}": name for name, cls in self._classes.items()}
        name = self.former.get(path) or added.get(path)
        if name is None:
            raise UserError(
                f"{self.group}._target_={path} is not a known {self.title}, and class paths in files are never "
                f"imported. If it is yours, register it and name its module in the environment: {PLUGINS}=MODULE."
            )
        return {key: value for key, value in options.items() if key != "_target_"} | {self.key: name}


DECODERS = Registry("decoder", "model", "decoder", "segrefine.models.decoders", FORMER_DECODERS)
DATAMODULES = Registry("data module", "datamodule", "kind", "segrefine.data.sets", FORMER_DATAMODULES)
REGISTRIES = {registry.group: registry for registry in (DECODERS, DATAMODULES)}

register_decoder = DECODERS.register
register_datamodule = DATAMODULES.register


def load_plugins() -> None:
    """Import the modules that the environment variable `SEGREFINE_PLUGINS` names. They register a user's classes.

    Raises:
        UserError: One of them cannot be imported.
    """
    for module in filter(None, os.environ.get(PLUGINS, "").replace(" ", "").split(",")):
        if module in sys.modules:
            continue
        if os.getcwd() not in sys.path:  # where an installed command does not look
            sys.path.append(os.getcwd())
        try:
            importlib.import_module(module)
        except (ImportError, SyntaxError, TypeError) as error:  # TypeError: ./my.py
            raise UserError(
                f"{PLUGINS}={module} cannot be imported: {error}. It takes names of modules, as `import` does, and "
                "looks in the working directory too."
            ) from error


def rename_classes(config: dict[str, Any]) -> dict[str, Any]:
    """Return a run's config with the class paths and options of older versions replaced."""
    return {
        key: REGISTRIES[key].rename(value) if key in REGISTRIES and isinstance(value, dict) else value
        for key, value in config.items()
    }
