"""Check options from configs against the types and ranges of the fields of dataclasses."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from annotated_types import Ge, Interval

from segrefine.core.errors import UserError, did_you_mean

Count = Annotated[int, Ge(1)]
Whole = Annotated[int, Ge(0)]
Positive = Annotated[float, Interval(gt=0, lt=float("inf"))]
NonNegative = Annotated[float, Interval(ge=0, lt=float("inf"))]
Share = Annotated[float, Interval(gt=0, le=1)]
Auto = Literal["auto"]
Size = Count | Sequence[Count] | None
"""One side in pixels for a square, [height, width], or None."""


@dataclass(frozen=True, kw_only=True)
class Views:
    """Views of an image over which scores are averaged: the option `tta` of a command (see `segrefine.models.tta`)."""

    scales: Sequence[Positive]
    flip: bool


@dataclass(frozen=True, kw_only=True)
class CRFOptions:
    """The fully connected CRF, `crf` of a command; see `segrefine.models.crf`.

    The defaults are those of CRF-RNN's release (torrvision/crfasrnn, README.md, `multi_stage_meanfield_param`).
    """

    steps: Count = 10  # of mean field
    stride: Count = 4  # side of a cell in pixels; time grows with the square of the number of cells
    theta_alpha: Positive = 160.0  # standard deviation of the bilateral kernel over positions, pixels
    theta_beta: Positive = 3.0  # the same over colors, of 0..255
    theta_gamma: Positive = 3.0  # standard deviation of the spatial kernel, pixels
    spatial_weight: NonNegative = 3.0  # what the kernel adds to a logit where all neighbors agree
    bilateral_weight: NonNegative = 5.0


_WORDS = {
    "greater than or equal to": "at least",
    "greater than": "above",
    "less than or equal to": "at most",
    "less than": "below",
    "a valid integer": "a whole number",
    "a valid number": "a number",
    "a valid boolean": "true or false",
    "a valid string": "a word",
    "a valid list": "a list",
    "an instance of Sequence": "a list",
    "a valid dictionary": "a mapping such as {a: 1}",
}
"""Pydantic's phrases, and phrases for people who type options on a command line."""

Options = TypeVar("Options")


def make_options(kind: type[Options], given: Mapping[str, Any], where: str, prefix: str) -> Options:
    """Build a dataclass of options from a config.

    Args:
        kind: the dataclass; a field may be a dataclass itself.
        given: option -> value, as in a config file.
        where: what the options belong to, for messages, such as `model=fcn8s`.
        prefix: what precedes an option's name on the command line, such as `model.`.

    Raises:
        UserError: An option is unknown, one without a default is missing, or a value has another type or lies outside
            the range that its field allows.
    """
    known = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    check_names(where, given, known)
    required = [name for name in known if name not in defaults(kind)]
    if missing := [name for name in required if given.get(name, "???") == "???"]:
        raise UserError(f"{where} lacks the options {', '.join(missing)}. Is it from another version?")
    return kind(**check_values(kind, given, prefix))


def defaults(kind: type) -> dict[str, Any]:
    """Return the defaults of the dataclass fields that have one."""
    values = {field.name: field.default for field in fields(kind) if field.default is not MISSING}
    return values | {field.name: field.default_factory() for field in fields(kind) if callable(field.default_factory)}


def check_values(kind: type, given: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Return the values as the fields of a dataclass hold them.

    Raises:
        UserError: A value has another type or lies outside the range that its field allows.
    """
    types = get_type_hints(kind, include_extras=True)
    return {name: _checked(types[name], value, f"{prefix}{name}") for name, value in given.items()}


def nested_options(expected: Any) -> type | None:
    """Return the dataclass that a field holds, or None."""
    parts = (expected, *get_args(expected))
    return next((part for part in parts if isinstance(part, type) and is_dataclass(part)), None)


def _checked(expected: Any, value: Any, name: str, label: str = "") -> Any:
    """Return the value if it fits the type. A mapping of options becomes its dataclass.

    A message begins with `label`, by default `name=value`.
    """
    nested = nested_options(expected)
    if nested is not None and not isinstance(value, nested) and value is not None:
        if not isinstance(value, Mapping):
            raise UserError(f"{name}={value} should be a mapping of options.")
        return make_options(nested, value, name, f"{name}.")
    if tuple in (expected, get_origin(expected)) and isinstance(value, list):
        value = tuple(value)
    from pydantic import TypeAdapter, ValidationError  # here, since --help does without

    try:
        return TypeAdapter(expected).validate_python(value, strict=True)
    except ValidationError as error:
        if isinstance(value, Mapping):
            _check_items(expected, value, name)
        choices = list(dict.fromkeys(choice for choice in _choices(expected) if isinstance(choice, str)))
        misspelled = isinstance(value, str) and len(choices) > 1  # a word is not meant as a mapping
        wrong = [each for each in error.errors() if not (misspelled and each["type"] == "dict_type")]
        wanted = dict.fromkeys([_in_words(each["msg"]) for each in wrong])
        if type(None) in get_args(expected):
            wanted["null"] = None
        text = f"{label or f'{name}={value}'} should be {' or '.join(wanted)}."
        raise UserError(text + (did_you_mean(str(value), choices) if len(choices) > 1 else "")) from None


def _check_items(expected: Any, value: Mapping[Any, Any], name: str) -> None:
    """Raise UserError for the first item that does not fit, if the type is or allows a mapping."""
    for part in (expected, *get_args(expected)):
        if get_origin(part) is Mapping:
            key_type, item_type = get_args(part)
            for key, item in value.items():
                _checked(key_type, key, name, f"{name}={value}: {key}")
                _checked(item_type, item, f"{name}.{key}")


def _in_words(message: str) -> str:
    text = message.removeprefix("Input should be ").replace("'", "")
    for theirs, ours in _WORDS.items():
        text = text.replace(theirs, ours)
    return text


def _choices(expected: Any) -> Iterable[Any]:
    """Return the values of all Literals in a type."""
    if get_origin(expected) is Literal:
        return get_args(expected)
    return [choice for part in get_args(expected) for choice in _choices(part)]


def check_names(where: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Raise UserError for the first given option that is unknown, with the nearest known names."""
    known = list(known)
    for name in given:
        if name not in known:
            raise UserError(f"{where} has no option {name!r}.{did_you_mean(name, known)}")
