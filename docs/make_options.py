"""Write docs/options.md: every option with its type, default and meaning. Run `python docs/make_options.py`.

Types and ranges come from the dataclasses that check the options, defaults and meanings from the files in `conf/`.
"""

import importlib
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from segrefine.core.config import CONFIG_FOLDER, list_names, read_group
from segrefine.core.options import nested_options
from segrefine.core.registry import DATAMODULES, DECODERS
from segrefine.engine.recipe import Recipe
from segrefine.engine.trainer import TrainerOptions
from segrefine.models.build import NetworkOptions
from segrefine.models.encoders import EncoderOptions

PAGE = Path(__file__).with_name("options.md")

COMMANDS = ("train", "evaluate", "predict", "compare", "export", "benchmark", "data")

HEAD = """# Options

Set an option with `name=value` on the command line. This page is written by `python docs/make_options.py`.
"""


LIMITS = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}

WORDS = {int: "whole number", float: "number", bool: "true or false", str: "text", NoneType: "null"}


def describe_type(expected: Any) -> str:
    """Return a type in words, such as `number, at least 0, or null`."""
    parts, bounds = get_args(expected), getattr(expected, "__metadata__", ())
    if bounds:
        limits = [
            f"{word} {getattr(bound, name)}"
            for bound in bounds
            for name, word in LIMITS.items()
            if getattr(bound, name, None) not in (None, float("inf"))
        ]
        return " ".join([describe_type(parts[0]), *limits])
    if get_origin(expected) is Literal:
        return ", ".join(f"`{choice}`" for choice in parts)
    if get_origin(expected) in (Union, UnionType):
        return " or ".join(dict.fromkeys(describe_type(part) for part in parts))
    if get_origin(expected) is not None:
        return f"{'mapping' if len(parts) == 2 else 'list'} of {' to '.join(describe_type(part) for part in parts)}"
    return WORDS[expected]


def comments(file: Path) -> dict[str, str]:
    """Return the comment behind each option of a file, by its dotted name."""
    found, parents = {}, []
    for line in file.read_text(encoding="utf-8").splitlines():
        match = re.match(r"( *)([\w.]+):(.*?)(?:  # (.*))?$", line)
        if match:
            depth = len(match[1]) // 2
            parents = [*parents[:depth], match[2]]
            found[".".join(parents)] = match[4] or ""
    return found


Described = tuple[dict[str, Any], dict[str, str]]
"""The options of a file with their defaults, and the comments on them."""


def describe_group(group: str, name: str) -> Described:
    """Describe a value of a config group, with what it takes over from other files."""
    file = CONFIG_FOLDER / group / f"{name}.yaml"
    bases = [base for base in yaml.safe_load(file.read_text()).get("defaults", []) if base != "_self_"]
    said = {key: text for base in bases for key, text in describe_group(group, base)[1].items()}
    return read_group(group, name), said | {key: text for key, text in comments(file).items() if text}


def rows(kind: type, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the options of a dataclass with their types, those of nested dataclasses by dotted names."""
    types = get_type_hints(kind, include_extras=True)
    for field in fields(kind):  # type: ignore[arg-type]
        expected = types[field.name]
        nested = nested_options(expected)
        if nested is not None:
            yield from rows(nested, f"{prefix}{field.name}.")
        elif field.name != "name" or prefix:
            yield f"{prefix}{field.name}", expected


def table(kind: type, prefix: str, contents: dict[str, Described]) -> list[str]:
    """Return a Markdown table of the options of a dataclass that its files have, with the files if not all have one."""
    lines = ["| option | type | default | meaning |", "| --- | --- | --- | --- |"]
    for name, expected in rows(kind):
        values: list[Any] = []
        meanings: dict[str, list[str]] = {}
        for title, (content, said) in contents.items():
            value: Any = content
            for key in name.split("."):
                value = value.get(key, "") if isinstance(value, dict) else ""
            if value == "":
                continue
            values += [value] if value not in values else []
            meanings.setdefault(said.get(name, ""), []).append(title)
        if not meanings:
            continue
        if meanings.keys() == {""} or list(meanings.values()) == [list(contents)]:
            meaning = next(iter(meanings))
        else:
            meaning = "; ".join(f"{', '.join(titles)}: {text}" for text, titles in meanings.items())
        default = ", ".join(
            f"`{yaml.safe_dump(value, default_flow_style=True).splitlines()[0]}`" for value in values[:4]
        )
        cells = [f"`{prefix}{name}`", describe_type(expected), default, meaning]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return lines


def page() -> str:
    """Return the whole page."""
    lines = [HEAD]
    for command in COMMANDS:
        kind = importlib.import_module(f"segrefine.cli.{command}").Options
        file = CONFIG_FOLDER / f"{command}.yaml"
        described = yaml.safe_load(file.read_text()), comments(file)
        lines += [f"\n## `segrefine {command}`\n", *table(kind, "", {command: described})]
    groups: list[tuple[str, str, type, list[str]]] = [
        ("model", "all", NetworkOptions, ["fcn8s", "refinenet_2scale"]),
        ("backbone", "all", EncoderOptions, ["resnet50", "vgg16", "timm"]),
        ("recipe", "all", Recipe, ["default"]),
        ("trainer", "all", TrainerOptions, ["default"]),
    ]
    for group, registry in (("model", DECODERS), ("datamodule", DATAMODULES)):
        by_kind: dict[type, list[str]] = {}
        for name in list_names(group):
            by_kind.setdefault(registry.find(read_group(group, name)[registry.key]), []).append(name)
        own = [(kind.Options, names) for kind, names in by_kind.items() if fields(kind.Options)]
        groups += [(group, ", ".join(names), options, names) for options, names in own]
    for group, title, kind, names in groups:
        lines += [f"\n## `{group}`: {title}\n"]
        lines += table(kind, f"{group}.", {name: describe_group(group, name) for name in names})
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
