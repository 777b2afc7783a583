"""Take the small files of finished runs into the results: `python experiments/scripts/collect.py SET RUN_FOLDER ...`.

A run of `+experiment=shapes/fcn8s seed=1` becomes `experiments/results/SET/fcn8s_seed1/`: summary.json, config.yml,
per_image.csv and metrics.csv, the last two packed. One scored by `evaluate.py` is called after the folder it lies in,
`NAME_seedN`, and gets the metrics.csv of the training that its checkpoint comes from, which tells whether the network
had learned. Paths lose their folders, which are nobody else's.
"""

import gzip
import json
import re
import sys
from pathlib import Path

import yaml

from segrefine.io.atomic import replacing, write_text

RESULTS = Path(__file__).parents[1] / "results"


def name_of(run: Path) -> str:
    """`fcn8s_seed1` or, with folds, `fcn8s_fold0_seed1`, from the run's command line and config."""
    if re.fullmatch(r".+_seed\d+", run.name) and not re.match("experiment", run.name):
        return run.name
    overrides = yaml.safe_load((run / ".hydra" / "overrides.yaml").read_text())
    experiment = next(word for word in overrides if word.startswith("+experiment"))
    seed = json.loads((run / "summary.json").read_text())["seed"]
    fold = yaml.safe_load((run / "config.yaml").read_text())["datamodule"].get("fold")
    return f"{re.split('[=/]', experiment)[-1]}{'' if fold is None else f'_fold{fold}'}_seed{seed}"


def without_folders(value: object) -> object:
    """Paths as names of files alone, anywhere in nested values."""
    if isinstance(value, dict):
        return {key: without_folders(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [without_folders(entry) for entry in value]
    return Path(value).name if isinstance(value, str) and value.startswith("/") else value


def collect(set_name: str, run: Path) -> Path:
    """Copy what belongs to the results; returns the folder."""
    folder = RESULTS / set_name / name_of(run)
    summary = json.loads((run / "summary.json").read_text())
    write_text(folder / "summary.json", json.dumps(without_folders(summary), indent=1) + "\n")
    config = yaml.safe_load((run / "config.yaml").read_text())
    write_text(folder / "config.yml", yaml.safe_dump(without_folders(config), sort_keys=False))
    training = Path(summary["checkpoint"]).parent.parent if summary.get("checkpoint") else run
    for file in (run / "per_image.csv", training / "metrics.csv"):
        if file.is_file():
            with replacing(folder / f"{file.name}.gz") as part:
                part.write_bytes(gzip.compress(file.read_bytes(), mtime=0))
    return folder


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    runs = [Path(word) for word in sys.argv[2:]]
    for run in runs:
        if (run / "summary.json").is_file():
            print(collect(sys.argv[1], run))
        else:
            print(f"not finished, so left out: {run}", file=sys.stderr)
