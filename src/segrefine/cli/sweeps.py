"""Make sweeps resumable: the same command finds the same folder again.

`segrefine.cli.jobs` skips its finished runs and resumes the others. Nothing heavy is imported here, since the command
line needs this module at once.
"""

import hashlib
import re
import shlex
from pathlib import Path

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import OmegaConf

from segrefine.runs.folder import RunFolder

MULTIRUN = {"-m", "--multirun"}

NAME_LENGTH = 80
"""The most characters in a folder's name, without the digest. File systems allow 255."""

SAME_SWEEP = re.compile(r"hydra[./]launcher|hydra\.(sweep\.dir|sweeper\.(n_trials|n_jobs|max_failure_rate))$")
"""Options that do not make a different sweep: how its runs are started, and how many a search makes."""


def slug(text: str) -> str:
    """Return a folder name for a run's options, as Hydra writes them, that needs no quotes on a command line.

    `+experiment/shapes=fcn8s,seed=0` becomes `experiment-shapes-fcn8s_seed-0`. Different options give different names:
    a digest follows if a value had to be changed or the whole to be cut.
    """

    def item(match: re.Match[str]) -> str:
        return f"{'_' if match[1] else ''}{match[2].replace('/', '-')}-"

    plain = re.sub(r"(^|,)\+*([\w./]+)=", item, text)
    words = _words(plain)
    return words if words == plain else f"{words}_{_digest(text)}"


def _words(text: str) -> str:
    words = re.sub(r"[^A-Za-z0-9_.+]+", "-", text.replace(",", "+"))
    return re.sub(r"[-+._]*_[-+._]*", "_", words).strip("-+._")[:NAME_LENGTH].rstrip("-+._") or "run"


def _digest(text: str) -> str:
    return hashlib.sha1(text.encode(errors="surrogateescape")).hexdigest()[:8]


OmegaConf.register_new_resolver("slug", slug, replace=True)  # here: submitit's processes import this, not `main`


def sweep_options(command: str, arguments: list[str]) -> list[str]:
    """Return the overrides to add for a sweep.

    They name the folder after everything that was asked for, so that the same command finds it again. They also drop
    the options that all runs share from the names of runs.
    """
    if not MULTIRUN & set(arguments):
        return []
    overrides = _parse(arguments)
    constant = [each.key_or_group for each in overrides if not each.is_sweep_override()]
    shared = ",".join(key for key in constant if not key.startswith("hydra"))
    options = [f"hydra.job.config.override_dirname.exclude_keys=[{shared}]"]
    if overrides and not any(each.key_or_group == "hydra.sweep.dir" for each in overrides):
        asked = sorted(str(each.input_line) for each in overrides if not SAME_SWEEP.match(each.key_or_group))
        swept = sorted(str(each.input_line) for each in overrides if each.is_sweep_override())
        searched = [str(each.value()) for each in overrides if each.key_or_group == "hydra/sweeper"]
        name = _words("_".join([*([command] if command != "train" else []), *searched, *swept]))
        digest = _digest("\n".join([command, *asked]))
        options.append(f"hydra.sweep.dir=multirun/{name}_{digest}")
    return options


def add_overrides(arguments: list[str], added: list[str]) -> list[str]:
    """Return the arguments with `-m` first, and more overrides before the user's, which take precedence.

    argparse accepts overrides only in one block.
    """
    flags = [argument for argument in arguments if argument in MULTIRUN]
    others = [argument for argument in arguments if argument not in MULTIRUN]
    first = next((index for index, argument in enumerate(others) if _is_override(argument)), len(others))
    return [*flags, *others[:first], *added, *others[first:]]


def _is_override(argument: str) -> bool:
    return not argument.startswith("-") and "=" in argument


def _parse(arguments: list[str]) -> list[Override]:
    words = [argument for argument in arguments if _is_override(argument)]
    try:
        return OverridesParser.create().parse_overrides(words)
    except HydraException:
        return []  # which Hydra is about to say


def sweep_folder(arguments: list[str]) -> Path | None:
    """Return the folder that the arguments, with those of `sweep_options`, give a sweep; None for a single run."""
    if not MULTIRUN & set(arguments):
        return None
    given = [override.value() for override in _parse(arguments) if override.key_or_group == "hydra.sweep.dir"]
    return Path(str(given[-1])) if given else None


def describe_sweep(folder: Path) -> list[str]:
    """Return lines on the progress of a sweep so far, and the commands to run next."""
    runs = sorted(path.parent for path in folder.glob(f"*/{RunFolder.HYDRA}"))
    unfinished = [run.name for run in runs if not RunFolder(run).finished]
    lines = [f"{len(runs) - len(unfinished)} of {len(runs)} runs in {folder} are finished"] if runs else []
    if unfinished:
        lines.append(f"the same command resumes {', '.join(unfinished)}")
    if len(unfinished) < len(runs):
        lines.append(f"to compare: segrefine compare runs={shlex.quote(f'{folder}/*')} output=DIR")
    found = folder / "optimization_results.yaml"
    if found.is_file():
        best = yaml.safe_load(found.read_text())
        options = " ".join(f"{name}={value}" for name, value in best.get("best_params", {}).items())
        lines.append(f"best mIoU of val {best.get('best_value')} with {options}")
    if any(folder.glob(f"*/{RunFolder.OFFLINE_RUNS}")):
        lines.append(f"to upload to W&B: wandb sync {shlex.quote(str(folder))}/*/{RunFolder.OFFLINE_RUNS}")
    return lines
