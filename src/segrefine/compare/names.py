"""Name variants after the model and the options that set the runs apart from most others."""

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segrefine.runs.options import FORMERLY, NO_DIFFERENCE, PLAIN_INFERENCE, flatten_options
from segrefine.runs.read import Run

LONGEST = 40
"""The most characters in a name, unless two variants would then share a name."""

GROUPS = ("model", "backbone", "datamodule", "recipe")
"""Config groups whose options mean the same thing only if the group's `name` is the same."""

VAGUE = ("name", "size", "scale", "seed")
"""Last parts of dotted names that say too little alone."""

FILE = re.compile(r".*/.*|[\w.-]+\.(pth|pt|ckpt|safetensors|caffemodel|mat|npz|h5)")

Key = tuple[str, str]
"""An option's dotted name, and the name of the group's value that it belongs to, or "" for any."""

Settings = dict[Key, str]


@dataclass(frozen=True)
class Names:
    """Names of runs. Runs of one variant share theirs."""

    labels: tuple[str, ...]  # one for each run
    shared: str  # what holds for each variant unless its name says otherwise
    whole: Mapping[str, str]  # label -> everything that sets the variant apart, for labels that were shortened


def name_runs(runs: Sequence[Run]) -> Names:
    """Name runs by their model and by the options in which they differ from most others, the shortest first.

    A path is given by its stem. If two runs with the same seed would then have the same name, paths stay whole.
    """
    options = _complete([variant_options(run.config) for run in runs])
    differing = _differing(options)
    settings = [_settings(own, differing, whole_paths=False) for own in options]
    identities = Counter((frozenset(own.items()), run.seed) for own, run in zip(settings, runs, strict=True))
    if max(identities.values()) > 1:
        settings = [_settings(own, differing, whole_paths=True) for own in options]
    variants = list(dict.fromkeys(frozenset(own.items()) for own in settings))
    usual = _usual([dict(variant) for variant in variants])
    short_keys = _short_keys({option for own in settings for option, _ in own})
    parts = {variant: _parts(dict(variant), usual, short_keys) for variant in variants}
    short = _shorten(list(parts.values()))
    named = dict(zip(variants, short, strict=True))
    whole = {named[variant]: " ".join(parts[variant]) for variant in variants}
    return Names(
        tuple(named[frozenset(own.items())] for own in settings),
        _describe(usual, options, short_keys),
        {label: words for label, words in whole.items() if label != words},
    )


def _complete(options: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the options, where a run lacks one that others of its network, recipe or data have, as it was before.

    Evaluations of older versions have no recipe at all. What theirs was is not known, so nothing is filled in.
    """
    known = dict.fromkeys(_key(option, own) for own in options for option in own)
    completed = []
    for own in options:
        present = {option.split(".")[0] for option in own}
        scopes = {group: str(own.get(f"{group}.name")) for group in GROUPS if group in present}
        lacking = [option for option, scope in known if option not in own and scopes.get(option.split(".")[0]) == scope]
        completed.append({**own, **{option: FORMERLY.get(option) for option in lacking}})
    return completed


def variant_options(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return every option that may tell variants apart, by its dotted name."""
    options = flatten_options(PLAIN_INFERENCE | dict(config))
    unused = NO_DIFFERENCE if options["post"] == "crf" else {*NO_DIFFERENCE, "crf"}
    return {key: value for key, value in options.items() if key not in unused and key.split(".")[0] not in unused}


def _key(option: str, options: Mapping[str, Any]) -> Key:
    group = option.split(".")[0]
    name = f"{group}.name"
    return option, "" if group not in GROUPS or option == name else str(options.get(name))


def _differing(options: Sequence[Mapping[str, Any]]) -> set[Key]:
    """Return the options that two or more runs have and in which they differ."""
    values = defaultdict[Key, set[str]](set)
    for own in options:
        for option, value in own.items():
            values[_key(option, own)].add(repr(value))
    return {key for key, found in values.items() if len(found) > 1}


def _settings(options: Mapping[str, Any], differing: set[Key], whole_paths: bool) -> Settings:
    """Return the model, and the options in which any two runs differ, as text."""
    keys = {_key(option, options): option for option in sorted(options)}
    chosen = {key: option for key, option in keys.items() if key in differing or option == "model.name"}
    return {key: _text(options[option], whole_paths) for key, option in chosen.items()}


def _usual(variants: Sequence[Settings]) -> Settings:
    """Return the value that most variants with an option have, for every option but the model."""
    usual = {}
    for key in {key for variant in variants for key in variant if key[0] != "model.name"}:
        values = [variant[key] for variant in variants if key in variant]
        value, count = Counter(values).most_common(1)[0]
        if 2 * count > len(values):
            usual[key] = value
    return usual


def _short_keys(options: Collection[str]) -> dict[str, str]:
    """Return the last part of each dotted name, or the last two if that says too little or is another's, too."""
    parts = {option: option.split(".") for option in options}
    lasts = Counter(words[-1] for words in parts.values())
    alone = {last for last, count in lasts.items() if count == 1 and last not in VAGUE}
    return {option: words[-1] if words[-1] in alone else ".".join(words[-2:]) for option, words in parts.items()}


def _parts(settings: Settings, usual: Settings, short_keys: Mapping[str, str]) -> list[str]:
    """Return the parts of a name: model, backbone, and options from the shortest to the longest."""
    unusual = {key[0]: value for key, value in settings.items() if usual.get(key) != value}
    first = [unusual.pop(name) for name in ("model.name", "backbone.name") if name in unusual]
    others = [f"{short_keys[key]}={value}" for key, value in unusual.items()]
    return [*first, *sorted(others, key=lambda part: (len(part), part))]


def _shorten(names: list[list[str]]) -> list[str]:
    """Drop the longest options from names that are too long, as long as no two names become the same."""
    labels = [" ".join(parts) for parts in names]
    for place, parts in enumerate(names):
        others = {*labels[:place], *labels[place + 1 :]}
        kept = list(parts)
        while len(" ".join(kept)) > LONGEST and len(kept) > 2:
            shorter = [[*kept[:at], *kept[at + 1 :]] for at in range(len(kept) - 1, 0, -1)]
            possible = [rest for rest in shorter if " ".join(rest) not in others]
            if not possible:
                break
            kept = possible[0]
        labels[place] = " ".join(kept)
    return labels


def _describe(usual: Settings, options: Sequence[Mapping[str, Any]], short_keys: Mapping[str, str]) -> str:
    backbones = {own["backbone.name"] for own in options}
    words = [str(backbones.pop())] if len(backbones) == 1 else []
    several = len({own["model.name"] for own in options}) > 1
    for (option, scope), value in sorted(usual.items()):
        if option == "backbone.name":
            words.insert(0, value)
        else:
            of = f" ({scope})" if option.startswith("model.") and several else ""
            words.append(f"{short_keys[option]}={value}{of}")
    return ", ".join(words)


def _text(value: Any, whole_paths: bool) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):  # a sum of losses
        return "+".join(name if factor == 1 else f"{factor:g}*{name}" for name, factor in sorted(value.items()))
    if isinstance(value, str):
        return Path(value).stem if not whole_paths and FILE.fullmatch(value) else value
    return str(value).replace(" ", "")
