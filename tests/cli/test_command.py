"""What a user sees who types something: help in words, one message for a mistake, and an exit status that tells."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import TypeIn

from segrefine.cli.command import check_folder, run_folder
from segrefine.core.errors import UserError

CHECKOUT = Path(__file__).parents[2]

CHOICES = ("refinenet_2scale", "fcn8s_atonce", "vgg19_bn", "resnet152", "camvid", "lightweight_2018", "tensorboard")


def test_help_is_in_words(tmp_path: Path, type_in: TypeIn) -> None:
    result = type_in("train.py", "--help")
    assert result.returncode == 0
    for words in ("segrefine train ", "Options (set with name=value", *CHOICES):
        assert words in result.stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("script", ["evaluate.py", "predict.py"])
def test_other_commands_have_help_too(script: str, type_in: TypeIn) -> None:
    result = type_in(script, "--help")
    assert result.returncode == 0
    assert f"segrefine {script.removesuffix('.py')} " in result.stdout
    assert "Options (set with name=value" in result.stdout


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("model=fcn9s", "model has no value 'fcn9s'. Did you mean 'fcn8s'"),
        ("trainer.max_epoch=3", "There is no option 'trainer.max_epoch'. Did you mean 'trainer.max_epochs'"),
        ("modle=fcn8s", "There is no option 'modle'. Did you mean 'model'"),
        ("experiment=fcn8s_heavy", "with a plus: +experiment=NAME"),
        ("+experiment=nothing", "experiment has no value 'nothing'. Known: "),
        ("+experiment=shapes/fcn8ss", "experiment has no value 'shapes/fcn8ss'. Did you mean 'shapes/fcn8s'"),
        ("+experiment=shpes/fcn8s", "experiment has no value 'shpes/fcn8s'. Did you mean 'shapes/fcn8s'"),
        ("+experiment/shape=fcn8s", "There is no option 'experiment/shape'."),
        ("+speed=1", "There is no option 'speed'. Did you mean 'seed'?"),
        ("+experiment=shapes_fcn8s", "experiment has no value 'shapes_fcn8s'. Did you mean 'shapes/fcn8s'"),
        ("seed='0", "seed='0 cannot be read. Put a value with ~, =, spaces or quotes in quotes"),
        ("init_from=~/x.ckpt", "init_from=~/x.ckpt cannot be read. Put a value with ~, =, spaces or quotes in quotes"),
        ("fcn8s", "fcn8s is not an option. Give NAME=VALUE, such as model=fcn8s."),
        (
            "-m +experiment/camvid=fcn8s,refinenet datamodule.root=.",
            "Its options: augment, batch_size, crop_size, eval_batch_size, images_per_class, images_per_epoch, "
            "num_workers, seed, test_size, train_size, "
            "val_size. If the swept files of experiments/ choose another datamodule, give datamodule=NAME as well.",
        ),
        ("hydra/launcher=paralel", "hydra/launcher has no value 'paralel'. Did you mean 'parallel'"),
        ("model.upsample", "model.upsample"),
        ("recipe.momentun=1", "Did you mean 'recipe.momentum'"),
        ("recipe.warmup_steps=3", "no option 'recipe.warmup_steps'. Did you mean 'recipe.schedule.warmup_steps'?"),
        ("max_epochs=3", "There is no option 'max_epochs'. Did you mean 'trainer.max_epochs'?"),
        ("batch_size=4", "Did you mean 'datamodule.batch_size'?"),
        ("--epochs 3", "There is no --epochs. Options have the form NAME=VALUE, without dashes"),
        (
            "model=fcn_dilated model.crp_links=2",
            "model.crp_links is not an option of model=fcn_dilated. Its options: auxiliary, context, crf, init, "
            "input_scale, upsample. It is one of model=refinenet, refinenet_2cascade,",
        ),
    ],
)
def test_a_mistake_in_the_config_is_one_message(argument: str, message: str, type_in: TypeIn) -> None:
    result = type_in("train.py", *argument.split())
    assert result.returncode == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("script", "arguments", "message"),
    [
        ("train.py", ["trainer.max_epochs=ten"], "trainer.max_epochs=ten should be a whole number"),
        (
            "train.py",
            ["+experiment=shapes/refinenet", "model.crp_links=2.5"],
            "model.crp_links=2.5 should be a whole number",
        ),
        ("train.py", ["datamodule.batch_size=0"], "datamodule.batch_size=0 should be"),
        ("evaluate.py", [], "Give checkpoint=PATH"),
        ("train.py", ["+trainer.gradient_clip_val=1"], "has no effect here. Use recipe.clip_norm."),
        ("train.py", ["trainer.accelerator=tpu"], "The trainer options conflict with each other or with this machine"),
        ("train.py", ["seed=-1"], "seed=-1 should be at least 0"),
        ("train.py", ["checkpoint_every_minutes=0"], "checkpoint_every_minutes=0 should be above 0 or null"),
        ("train.py", ["trainer.limit_val_batches=0.01"], "limit_val_batches=0.01 leaves none of 10 batches"),
        ("train.py", ["trainer.limit_test_batches=0"], "trainer.limit_test_batches=0 should be"),
        ("evaluate.py", ["checkpoint=~/gone.ckpt"], "checkpoint=~/gone.ckpt cannot be read. Put a value with ~"),
        ("evaluate.py", ["split=tset"], "split=tset should be train, val or test. Did you mean 'test'?"),
        ("predict.py", ["checkpoint=gone.ckpt", "input=."], "There is no weights file gone.ckpt"),
        ("evaluate.py", ["-m", "checkpoint=a.ckpt,b.ckpt"], "a sweep takes one checkpoint"),
        (
            "predict.py",
            ["checkpoint=.", "input=."],
            ". is a folder. Name a file of weights",
        ),
        ("predict.py", ["tta.scales=[0]"], "tta.scales=[0] should be above 0"),
        ("compare.py", ["resamples=10"], "resamples=10 should be at least 100"),
        ("train.py", ["~recipe"], "The command needs the group recipe: leave out ~recipe"),
        ("compare.py", ["runs=[]", "output=out"], "Give runs=DIR"),
        ("segrefine.data", ["show", "output=/proc/x.png"], "A file or folder cannot be read or written"),
        ("segrefine.benchmark", ["size=[64]"], "size=[64] should be [height, width]"),
        ("segrefine.benchmark", ["peer=os:path"], "peer=os:path: 'module' object is not callable"),
        ("segrefine.benchmark", ["rounds=0"], "rounds=0 should be at least 1"),
        ("segrefine.benchmark", ["peer_channels_last=auto"], "peer_channels_last=auto should be true or false"),
        ("segrefine.benchmark", ["channels_last=maybe"], "channels_last=maybe should be auto or true or false"),
    ],
)
def test_a_mistake_found_later_is_one_message_too(
    script: str, arguments: list[str], message: str, type_in: TypeIn
) -> None:
    result = type_in(script, *arguments)
    assert result.returncode == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_an_option_that_an_experiment_gives_as_5_takes_any_number(type_in: TypeIn) -> None:
    """Its place in the recipe holds `auto`; that the file's 5 is whole says nothing."""
    arguments = ("+experiment=shapes/fcn8s", "recipe.encoder_lr_multiplier=2.5", "datamodule.batch_size=0")
    assert "datamodule.batch_size=0 should be" in type_in("train.py", *arguments).stderr


def test_a_second_process_in_a_runs_folder_is_told_and_leaves_it_alone(
    type_in: TypeIn, at_work: Callable[[Path], None], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    for name in ("checkpoints/last.ckpt", "metrics.csv", "config.yaml", ".metrics.1.csv"):  # the last is being written
        (run / name).write_text(name)
    at_work(run)
    result = type_in("train.py", f"hydra.run.dir={run}", "seed=1", "ckpt_path=last")
    assert result.returncode == 2
    assert f"error: Another process is working on the run in {run}. Wait until it ends" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    for name in ("checkpoints/last.ckpt", "metrics.csv", "config.yaml", ".metrics.1.csv"):
        assert (run / name).read_text() == name
    assert (run / ".lock").exists()


@pytest.mark.parametrize("words", [("train.py",), ("evaluate.py", "checkpoint=run/checkpoints/last.ckpt")])
@pytest.mark.parametrize("name", ["run", "'run'"])
def test_no_command_writes_into_the_folder_of_a_training_run(
    words: tuple[str, ...], name: str, type_in: TypeIn, tmp_path: Path
) -> None:
    last = tmp_path / "run/checkpoints/last.ckpt"
    last.parent.mkdir(parents=True)
    last.write_text("trained")
    result = type_in(*words, f"hydra.run.dir={name}")
    assert result.returncode == 2
    assert "error: run holds a training run. Give another hydra.run.dir=FOLDER, or resume" in result.stderr
    assert [path for path in (tmp_path / "run").rglob("*") if path.is_file()] == [last]
    assert last.read_text() == "trained"


def test_last_means_the_newest_run_of_the_same_model_and_backbone(tmp_path: Path) -> None:
    for hour, name in enumerate(("10-00-00_fcn8s_resnet18", "11-00-00_fcn8s_resnet18", "12-00-00_fcn8s_resnet34")):
        checkpoint = tmp_path / "day" / name / "checkpoints/last.ckpt"
        checkpoint.parent.mkdir(parents=True)
        checkpoint.touch()
        os.utime(checkpoint, (hour, hour))
    fresh = str(tmp_path / "day" / "13-00-00_fcn8s_resnet18")
    assert run_folder("last", fresh) == str(tmp_path / "day" / "11-00-00_fcn8s_resnet18")
    assert run_folder(None, fresh) == fresh
    assert run_folder("last", str(tmp_path / "day" / "13-00-00_fcn4s_resnet18")).endswith("13-00-00_fcn4s_resnet18")


def test_a_path_continues_the_run_it_belongs_to(tmp_path: Path) -> None:
    run = tmp_path / "elsewhere"
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.yaml").touch()
    assert run_folder(str(run / "checkpoints/last.ckpt"), "outputs/day/new_a_b") == str(run)
    assert run_folder(str(tmp_path / "loose.ckpt"), "outputs/day/new_a_b") == "outputs/day/new_a_b"
    assert run_folder("bare.ckpt", "outputs/day/new_a_b") == "outputs/day/new_a_b"


@pytest.mark.parametrize("count", ["WORLD_SIZE", "SLURM_STEP_NUM_TASKS"])
def test_several_processes_are_told_to_share_a_folder(count: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(count, "1")
    check_folder("train", ["model=fcn8s"])
    monkeypatch.setenv(count, "4")
    for named in ("hydra.run.dir=x", "--help"):
        check_folder("train", [named])
    for without_folder in ("predict", "compare"):
        check_folder(without_folder, [])
    for unnamed in ([], ["ckpt_path=last"], ["ckpt_path=loose.ckpt"]):
        with pytest.raises(UserError, match=r"the 4 processes of this run one folder: hydra\.run\.dir="):
            check_folder("train", unnamed)


def test_a_run_that_came_to_nothing_leaves_no_folder(tmp_path: Path, type_in: TypeIn) -> None:
    result = type_in("train.py", "recipe.lr=abc")
    assert result.returncode == 2
    assert not list((tmp_path / "outputs").iterdir())
    named = type_in("train.py", "recipe.lr=abc", "hydra.run.dir=mine")
    assert named.returncode == 2
    assert (tmp_path / "mine/train.log").is_file()


def test_a_mistake_leaves_the_working_directory_where_it_is(tmp_path: Path, type_in: TypeIn) -> None:
    """An empty one too: commands without a run's folder write into it."""
    for script in ("predict.py", "compare.py", "segrefine.export"):
        assert type_in(script).returncode == 2
        assert tmp_path.is_dir()


def test_the_last_checkpoint_of_a_named_run_starts_it_and_resumes_it(
    tmp_path: Path, type_in: TypeIn, narrow: None
) -> None:
    """So that a scheduler's script is one line. Without a named run there has to be an earlier one."""
    sizes = ["datamodule.train_size=8", "datamodule.val_size=2", "datamodule.test_size=2", "datamodule.batch_size=4"]
    words = ["ckpt_path=last", "trainer=debug", "logger=csv", "model=fcn32s", *sizes]
    unnamed = type_in("train.py", *words)
    assert unnamed.returncode == 2
    assert "no earlier run of this model and backbone left a checkpoint under outputs/" in unnamed.stderr
    first = type_in("train.py", *words, "hydra.run.dir=run")
    assert first.returncode == 0, first.stderr
    assert f"ckpt_path=last: there is no checkpoint in {tmp_path / 'run'}, so a new run starts." in first.stderr
    again = type_in("train.py", *words, "hydra.run.dir=run", "trainer.max_epochs=2")
    assert again.returncode == 0, again.stderr
    assert "after 2 steps" in again.stderr
