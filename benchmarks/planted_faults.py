"""How strong the tests are: small faults planted into a copy of the source, one at a time, and whether tests notice.

    python benchmarks/planted_faults.py [NUMBER ...]      all faults, or those; 0: none, but all their tests

Each has to be noticed by the tests that are named with it. What is copied is the last commit.
"""

import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import time
import venv
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

CHECKOUT = Path(__file__).parents[1]
SECONDS = 300  # after which tests with a fault count as broken

FAULTS = r"""
A learned upsampling lands a pixel late | models/upsampling.py | models/test_upsampling.py
- return round(stride + _peak(stride, center) - center)
+ return round(stride + _peak(stride, center) - center) - 1
The bilinear kernel is a tap too wide | models/upsampling.py | models/test_upsampling.py
- if peak is None else peak)).abs() / factor
+ if peak is None else peak)).abs() / (factor + 1)
Rows of a band come from a cell too late | models/upsampling.py | models/test_upsampling.py
- first = max(math.floor((top - max(self.center, 0)) / stride), 0)
+ first = max(math.ceil((top - max(self.center, 0)) / stride), 0)
A crop of FCN's is taken at the coarser stride | models/decoders/fcn.py | models/test_fcn.py weights/test_published.py
- center = centers[fine] + self.crops[fine] * fine
+ center = centers[fine] + self.crops[fine] * coarse
A skip is scaled as the next finer one should be | models/decoders/fcn.py | models/test_fcn.py weights/test_published.py
- self.skip_scales.get(stride, 1.0)
+ self.skip_scales.get(stride // 2, 1.0)
A residual unit lacks its inner ReLU | models/decoders/refinenet.py | models/test_refinenet.py
- self.norm2(self.conv2(self.relu2(residual)))
+ self.norm2(self.conv2(residual))
Chained pooling adds to the map before its ReLU | models/decoders/refinenet.py | models/test_refinenet.py
- total = path = self.relu(x)
+ total, path = x, self.relu(x)
Updates are centered over a whole layer | engine/optim.py | engine/test_optim.py
- weight.sub_(weight.mean((1, 2, 3), keepdim=True) - mean)
+ weight.sub_(weight.mean() - mean.mean())
A channel is dead if one image leaves it at zero | engine/callbacks/dead_units.py | engine/test_dead_units.py
- .any(dim=3).any(dim=2).any(dim=0)
+ .any(dim=3).any(dim=2).all(dim=0)
Images of half the size at the end | engine/module.py | engine/test_train.py
- bool(share) and self.global_step < share
+ bool(share) and self.global_step >= share
Labels of half the size are those of other pixels | engine/module.py | engine/test_module.py
- mode="nearest-exact")[:, 0]
+ mode="nearest")[:, 0]
Chained pooling looks at 3x3 pixels | models/decoders/refinenet.py | models/test_refinenet.py
- F.max_pool2d(x, kernel_size=5, stride=1, padding=2)
+ F.max_pool2d(x, kernel_size=3, stride=1, padding=1)
The last rows are in no band | models/logits.py | models/test_logits.py properties/test_losses_properties.py
- for top in range(0, height, self.step))
+ for top in range(0, height - self.step + 1, self.step))
Mirrored scores are not mirrored back | models/tta.py | models/test_tta.py
- (band.flip(-1) for band in self._bands(images.flip(-1))) if mirrored
+ self._bands(images.flip(-1)) if mirrored
Tiles do not reach the end of the image | models/tta.py | models/test_tta.py
- return [*range(0, length - window, step), length - window], window
+ return [*range(0, length - window + 1, step)], window
Logits are averaged over scales, not probabilities | models/tta.py | models/test_tta.py
- (logits.softmax(dim=1) for logits in self._view(view, mirrored, size))
+ self._view(view, mirrored, size)
The smaller scale is resized without smoothing | models/encoders/base.py | models/test_encoders.py
- antialias=scale < 1)
+ antialias=False)
The mean loss is divided by void pixels too | models/losses.py | models/test_logits.py
- return _total(parts) / (labels != VOID).sum().clamp(min=1)
+ return _total(parts) / labels.numel()
Void pixels weigh as class 0 in the divisor | models/losses.py | models/test_logits.py
- weights.float()[labels.long().where(valid, 0)] * valid
+ weights.float()[labels.long().where(valid, 0)]
A summed loss of val grows with the batch | engine/recipe.py | engine/test_module.py
- factor / count if name == "sum" else factor
+ factor
Norms are frozen in frozen stages alone | engine/module.py | engine/test_train.py::test_frozen_norms_keep_their_statistics
- (frozen or not module.weight.requires_grad)
+ (frozen and not module.weight.requires_grad)
Gradients are not clipped | engine/module.py | engine/test_train.py::test_a_clipped_step_is_as_long_as_the_rate_times_the_limit
- float("inf") if clip_norm is None else clip_norm)
+ float("inf"))
An infinite loss is not seen, a NaN is | engine/module.py | engine/test_train.py::test_an_infinite_loss_stops_the_run_as_well
- and not torch.isfinite(loss):
+ and torch.isnan(loss):
Every step drops the same units | engine/module.py | engine/test_train.py::test_every_step_draws_from_a_seed_of_its_own
- mix(self.seed, batches, self.global_rank)
+ mix(self.seed, 0, self.global_rank)
Biases always decay | engine/optim.py | engine/test_optim.py
- recipe.bias_lr_multiplier, recipe.bias_decay),
+ recipe.bias_lr_multiplier, True),
The encoder's multiplier is the decoder's | engine/optim.py | engine/test_optim.py
- (("encoder", recipe.encoder_lr_multiplier), ("decoder", 1.0))
+ (("encoder", 1.0), ("decoder", recipe.encoder_lr_multiplier))
The schedule runs a step ahead | engine/optim.py | engine/test_schedules.py
- done = min(step / total_steps, 1.0)
+ done = min((step + 1) / total_steps, 1.0)
Warm-up begins at a rate of 0 | engine/optim.py | engine/test_schedules.py
- warmup = min((step + 1) / self.warmup_steps, 1.0)
+ warmup = min(step / self.warmup_steps, 1.0)
The worst checkpoint is kept as the best | engine/callbacks/checkpoint.py | engine/test_checkpointing.py
- if score > self.best_score or
+ if score < self.best_score or
A resumed run forgets its best score | engine/callbacks/checkpoint.py | engine/test_resume.py engine/test_train.py::test_a_run_goes_on_where_it_stopped
- self.best_score = state_dict["best_score"]
+ self.best_score = -math.inf
The checkpoint before a new best is not kept | engine/callbacks/checkpoint.py | engine/test_checkpointing.py
- keep_previous(self.last)
+ pass
The last step is not validated | engine/callbacks/last_validation.py | engine/test_train.py::test_steps_that_end_within_an_epoch_are_scored_and_kept
- trainer.should_stop = True
+ pass
A file gets its name before its content is on the disk | io/atomic.py | io/test_atomic.py
- os.fsync(file.fileno())
+ file.flush()
A resumed table keeps the row of a step to come | engine/loggers/csv.py | engine/test_csv_logger.py
- if int(row["step"]) < step}
+ if int(row["step"]) <= step}
ckpt_path=last always starts a new run | engine/resume.py | engine/test_train.py::test_a_run_goes_on_where_it_stopped
- if not path.is_file():
+ if not path.is_file() or ckpt_path == "last":
A small image's prediction is cut at the wrong end | engine/predict.py | engine/test_predict.py
- return inference.classes(net.from_pixels(image[None]))[0, :height, :width]
+ return inference.classes(net.from_pixels(image[None]))[0, -height:, -width:]
Without a key W&B goes online and asks | runs/wandb.py | engine/test_loggers.py
- wanted in ("offline", "dryrun", "disabled") or has_wandb_key()
+ wanted in ("online", "offline", "dryrun", "disabled") or has_wandb_key()
Confusions have the prediction in rows | metrics/segmentation.py | metrics/test_segmentation.py
- cells = labels.long() * num_classes + predictions
+ cells = predictions.long() * num_classes + labels
An absent class counts as an IoU of 0 | metrics/scores.py | metrics/test_segmentation.py
- return ratios.sum(-1) / there.sum(-1)
+ return ratios.mean(-1)
The boundary band's width is rounded down | metrics/segmentation.py | metrics/test_segmentation.py
- distance = max(1, round(BOUNDARY_WIDTH * math.hypot(height, width)))
+ distance = max(1, int(BOUNDARY_WIDTH * math.hypot(height, width)))
The edge of the image is a trimap's boundary | metrics/regions.py | metrics/test_regions.py
- near_others(labels, width, beyond=0)
+ near_others(labels, width, beyond=VOID)
A region as large as a limit counts below it | metrics/regions.py | metrics/test_regions.py
- sizes = np.digitize(np.sqrt(areas), SIZE_LIMITS)
+ sizes = np.digitize(np.sqrt(areas), SIZE_LIMITS, right=True)
A resumed epoch skips batches for examples | data/datamodule.py | engine/test_resume.py data/test_datamodule.py
- self._epoch, self._batches * self.batch_size
+ self._epoch, self._batches
Every epoch has the same order | data/sampler.py | data/test_sampler.py
- mix(self.seed, self.epoch)
+ mix(self.seed, 0)
Of several processes' images the last are not scored | data/datamodule.py | data/test_datamodule.py
- share = range(rank, len(dataset), world)
+ share = range(rank, len(dataset) // world * world, world)
Labels are resized half a pixel off | data/transforms.py | data/test_transforms.py
- list(size), InterpolationMode.NEAREST_EXACT)
+ list(size), InterpolationMode.NEAREST)
The image is mirrored without its label | data/transforms.py | data/test_transforms.py
- image, label = image.flip(-1), label.flip(-1)
+ image = image.flip(-1)
Padding is of class 0, not void | data/transforms.py | data/test_transforms.py
- fill=VOID)
+ fill=0)
Label values that mean nothing are void | data/label_code.py | data/test_files.py
- np.where(self.table < 0, _STRANGE, self.table)
+ np.where(self.table < 0, VOID, self.table)
The cache does not see a file of the same size change | data/cache.py | data/test_cache.py
- {about.st_size} {about.st_mtime_ns}
+ {about.st_size}
Class weights go by the pixels of all images | data/class_weights.py | data/test_datamodule.py
- (totals * (histograms > 0)).sum(axis=0)
+ (totals * (histograms >= 0)).sum(axis=0)
A server that sends all anew is appended to | io/download.py | io/test_download.py
- resumes = response.status == 206
+ resumes = have > 0
FCN's published first layer is left BGR | weights/published.py | weights/test_published_files.py
- found[f"{_FIRST}.weight"] = first.flip(1)
+ found[f"{_FIRST}.weight"] = first
Caffe's mean is not brought to 0..1 | weights/published.py | weights/test_published_files.py
- torch.tensor(CAFFE_MEAN).view(3, 1, 1) / 255
+ torch.tensor(CAFFE_MEAN).view(3, 1, 1)
RefineNet's published units come in reverse | weights/published.py | weights/test_published.py
- {number}_b.0.{unit - first + 1}_conv"
+ {number}_b.0.{len(units) - unit}_conv"
A summary of the next version is read | runs/summary.py | runs/test_summary.py
- version > SCHEMA_VERSION:
+ version > SCHEMA_VERSION + 1:
An option that was null or 0 changes without a word | runs/options.py | runs/test_summary.py
- if new.get(key) != old.get(key) and key
+ if old.get(key) and new.get(key) != old.get(key) and key
Networks scored in two ways count twice as evidence about seeds | compare/statistics.py | compare/test_statistics.py
- found.append(weights.isdisjoint(seen))
+ found.append(True)
Gradients are dropped before the forward pass | bench/benchmark.py | bench/test_benchmark.py
- loss = Logits(self.net, self.images).loss(self.labels)
+ loss = (self.optimizer.zero_grad(), Logits(self.net, self.images).loss(self.labels))[1]
A resumed run keeps the patience that it began with | engine/callbacks/early_stopping.py | engine/test_averaging_and_patience.py
- state_dict | {"patience": self.patience}
+ state_dict
The coarser block's output is fused as it is | models/decoders/refinenet.py | models/test_refinenet.py
- [self.adapt_coarse(coarse)]
+ [coarse]
An image's name leads out of the folder | runs/folder.py | engine/test_predict.py engine/test_evaluate.py
- {"/": "_root", "//": "_root", "..": "_up"}
+ {"/": "_root", "//": "_root"}
Old results keep their class paths | runs/options.py | core/test_registry.py
- return rename_classes(content)
+ return content
A class path in a config is imported | core/registry.py | core/test_registry.py
- importlib.import_module(self.home)
+ importlib.import_module(str(name).rpartition(".")[0] or self.home)
SIGTERM ends a run like Ctrl-C | core/signals.py | core/test_signals.py
- 130 if number == signal.SIGINT else REQUEUE
+ 130 if number in (signal.SIGINT, signal.SIGTERM) else REQUEUE
Intervals hold for each pair by itself | compare/contrast.py | compare/test_statistics.py
- largest = np.fmax(largest, np.abs(contrast.replicates()))
+ largest = np.abs(contrast.replicates())
Every run gets resamples of its own | compare/statistics.py | compare/test_statistics.py
- scores(runs, metric, self._weights)
+ scores(runs, metric, self.blocks.draw(self.settings.resamples, np.random.default_rng()))
What seeds make of single images counts twice | compare/contrast.py | compare/test_statistics.py
- self._between(self.sample.deviations)) - shared)
+ self._between(self.sample.deviations)))
Variances are not moderated | compare/moderation.py | compare/test_moderation.py
- shrunk = (prior * common + own
+ shrunk = (own
Blocks do not go on past the end of a sequence | compare/resampling.py | compare/test_resampling.py
- places = first + (starts[..., None] - first + steps) % size
+ places = np.minimum(starts[..., None] + steps, first + size - 1)
Runs of different recipes are one variant | runs/options.py | compare/test_names.py
- "datamodule.eval_batch_size", "hydra")
+ "datamodule.eval_batch_size", "hydra", "recipe")
A name says what only half of the variants share | compare/names.py | compare/test_names.py
- if 2 * count > len(values):
+ if 2 * count >= len(values):
Variants told apart share a letter | compare/ranking.py | compare/test_ranking.py
- if not any(group < larger for larger in unique)]
+ if not any(group > larger for larger in unique)]
More seeds leave the error as it is | compare/contrast.py | compare/test_plan.py
- return np.array([self.planned or len(scores) for scores in self.by_seed])
+ return np.array([len(scores) for scores in self.by_seed])
The worst tenth is the best | compare/scores.py | compare/test_statistics.py
- order = known[np.argsort(values[known], kind="stable")]
+ order = known[np.argsort(-values[known], kind="stable")]
Sweeps whose values differ by a sign share a folder | cli/sweeps.py | cli/test_sweeps.py::test_what_does_not_fit_into_a_name_is_told_apart_by_a_digest
- return words if words == plain else f"{words}_{_digest(text)}"
+ return words
Multiply-adds of a batch are told as an image's | bench/benchmark.py | bench
- get_total_flops() // 2 // count
+ get_total_flops() // 2
"""  # noqa: E501
"""Three lines a fault: what is wrong, file and tests; the text there; what is planted in its place."""


class Fault(NamedTuple):
    """What is wrong, where below src/segrefine, the text there, what is planted in its place, and the tests."""

    what: str
    file: str
    old: str
    new: str
    tests: list[str]


class Outcome(NamedTuple):
    """`caught`, `not caught` or `broken`, the tests that failed, and how long all took."""

    word: str
    failed: str
    seconds: float


def read_faults() -> list[Fault]:
    lines, faults = FAULTS.strip().splitlines(), []
    for head, old, new in zip(lines[::3], lines[1::3], lines[2::3], strict=True):
        what, file, tests = head.split(" | ")
        faults.append(Fault(what, file, old[2:], new[2:], [f"tests/{test}" for test in tests.split()]))
    return [Fault("Nothing", "", "", "", sorted({test for fault in faults for test in fault.tests})), *faults]


def copy_checkout(folder: Path) -> None:
    """With a Python that finds the copy first: tests start processes with a PYTHONPATH of their own."""
    archive = subprocess.run(["git", "-C", str(CHECKOUT), "archive", "HEAD"], stdout=subprocess.PIPE, check=True).stdout
    with tarfile.open(fileobj=BytesIO(archive)) as files:
        files.extraction_filter = getattr(tarfile, "data_filter", None)  # from Python 3.11.4 on
        files.extractall(folder)
    venv.create(folder / ".python")
    ours, theirs = sysconfig.get_path("purelib"), sysconfig.get_path("purelib", vars={"base": str(folder / ".python")})
    Path(theirs, "copy.pth").write_text(f"{folder / 'src'}\nimport site; site.addsitedir({ours!r})\n")


def run_tests(folder: Path, tests: list[str], limit: int | None = SECONDS) -> Outcome:
    command = [str(folder / ".python/bin/python"), "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-n0", *tests]
    environment = os.environ | {"PYTHONPATH": str(folder / "src"), "OMP_NUM_THREADS": "1"}
    started = time.monotonic()
    try:
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return Outcome("broken", f"no end after {limit} s", time.monotonic() - started)
    failed = ", ".join(re.findall(r"^(?:FAILED|ERROR) tests/(\S+)", done.stdout, re.MULTILINE))
    word = {0: "not caught", 1: "caught"}.get(done.returncode, "broken")
    said = failed if word == "caught" else (done.stdout + done.stderr)[-300:] if word == "broken" else ""
    return Outcome(word, said, time.monotonic() - started)


def plant(fault: Fault, folder: Path) -> Outcome:
    """What the tests say while the fault is in the copy."""
    if not fault.file:
        return run_tests(folder, fault.tests, limit=None)
    path = folder / "src/segrefine" / fault.file
    text = path.read_text(encoding="utf-8")
    if text.count(fault.old) != 1:
        return Outcome("broken", f"{text.count(fault.old)} places hold the old text", 0)
    path.write_text(text.replace(fault.old, fault.new), encoding="utf-8")
    try:
        return run_tests(folder, fault.tests)
    finally:
        path.write_text(text, encoding="utf-8")


def main(numbers: list[int]) -> None:
    faults, words = read_faults(), []
    rows = ["| | fault | file | outcome | noticed by | s |", "| --- " * 6 + "|"]
    with tempfile.TemporaryDirectory() as folder:
        copy_checkout(Path(folder))
        for number in numbers or range(1, len(faults)):
            word, failed, seconds = plant(faults[number], Path(folder))
            words.append(word)
            noticed = " ".join(failed.split()).replace("|", "\\|")
            cells = number, faults[number].what, faults[number].file, word, noticed, f"{seconds:.0f}"
            rows.append(f"| {' | '.join(map(str, cells))} |")
            print(rows[-1], file=sys.stderr, flush=True)
    print("\n".join([*rows, f"\ncaught {words.count('caught')} of {len(words)}"]))


if __name__ == "__main__":
    main([int(number) for number in sys.argv[1:]])
