"""Runs with auxiliary heads: these are trained and resumed, and nothing that comes after training has them."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from segrefine.cli.options import GivenCheckpoint
from segrefine.core.config import CONFIG_FOLDER
from segrefine.core.errors import UserError
from segrefine.engine.evaluate import evaluate
from segrefine.engine.module import SegmentationModule
from segrefine.engine.resume import refuse_other_run
from segrefine.engine.train import train
from segrefine.models.build import create_model
from segrefine.models.cost import measure_cost
from segrefine.models.network import SegmentationModel
from segrefine.weights.checkpoint import load_model, read_checkpoint
from segrefine.weights.export import FORMATS, PROGRAMS, FromImages, export
from segrefine.weights.published import AUXILIARY

pytestmark = pytest.mark.usefixtures("narrow")

WIDTHS: dict[str, Any] = {"widths": {4: 8, 8: 8, 16: 8, 32: 16}}
TINY = [
    *("trainer=cpu", "trainer.precision=32-true", "recipe.schedule.warmup_steps=0", "logger=csv"),
    *("datamodule.train_size=8", "datamodule.val_size=2", "datamodule.test_size=2", "datamodule.batch_size=2"),
    *("datamodule.crop_size=64", "trainer.max_epochs=-1", "trainer.max_steps=3"),
    *("model=refinenet_lw", "model.widths={4: 8, 8: 8, 16: 8, 32: 16}", "model.auxiliary=0.5"),
]


def config(command: str, *overrides: str) -> DictConfig:
    GivenCheckpoint().register(list(overrides))
    with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
        return compose(command, overrides=list(overrides))


@pytest.fixture(scope="module")
def run(narrow: None, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A run with heads: its folder, summary, best checkpoint, and the loss of every step with all its parts."""
    folder, losses = tmp_path_factory.mktemp("auxiliary"), []
    step = SegmentationModule.training_step

    def record(module: SegmentationModule, batch: Any, index: int) -> Any:
        losses.append(step(module, batch, index))
        return losses[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SegmentationModule, "training_step", record)
        summary = train(config("train", *TINY), folder)
    return SimpleNamespace(folder=folder, summary=summary, checkpoint=folder / "checkpoints/best.ckpt", losses=losses)


def heads(tensors: dict[str, Any]) -> list[str]:
    return [name for name in tensors if AUXILIARY in name]


def test_heads_are_trained_and_kept_for_a_resume(run: SimpleNamespace) -> None:
    content = torch.load(run.folder / "checkpoints/last.ckpt", weights_only=True)
    names = heads(content["state_dict"])
    assert len(names) == 6
    for name in names:
        if name.endswith("bias"):  # they start at zero
            assert content["state_dict"][name].abs().min() > 0
    trained = sum(len(group["params"]) for group in content["optimizer_states"][0]["param_groups"])
    assert trained == sum(1 for _ in create_model("refinenet_lw", "resnet18", 8, auxiliary=0.5, **WIDTHS).parameters())
    chances = torch.log(torch.tensor(8.0))  # the loss of even scores, which training begins with, and of three heads
    assert run.losses[0].item() == pytest.approx(chances.item() * (1 + 0.5 * 3), rel=0.15)


def test_nothing_after_training_has_them(run: SimpleNamespace, tmp_path: Path) -> None:
    """The costs and scores in the summary are those of the network without heads, as `evaluate` finds them."""
    plain = create_model("refinenet_lw", "resnet18", 8, **WIDTHS)
    net = load_model(run.checkpoint)
    assert net.decoder.auxiliary is None
    assert net.state_dict().keys() == plain.state_dict().keys()
    cost = measure_cost(plain, (128, 128))
    assert (run.summary.params, run.summary.flops) == (cost["params"], cost["flops"])
    options = ["trainer=cpu", "trainer.precision=32-true", "split=test"]
    found = evaluate(config("evaluate", f"checkpoint={run.checkpoint}", *options), tmp_path)
    for name in ("weights", "mIoU", "params", "flops"):
        assert getattr(found, name) == getattr(run.summary, name), name


@pytest.mark.parametrize("name", PROGRAMS)
def test_what_is_exported_has_none(
    name: str, run: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tracing a RefineNet takes most of a minute, so what would be traced is looked at."""
    traced: list[SegmentationModel] = []

    def trace(net: SegmentationModel, options: dict[str, Any], path: Path) -> Any:
        traced.append(net)
        path.touch()
        return FromImages(net)

    monkeypatch.setitem(FORMATS, name, trace)
    export(config("export", f"checkpoint={run.checkpoint}", f"format={name}", f"output={tmp_path}/net"))
    assert not heads(traced[0].state_dict())
    assert not traced[0].training


def test_published_formats_get_none(run: SimpleNamespace, tmp_path: Path) -> None:
    output = tmp_path / "net.pth"
    export(config("export", f"checkpoint={run.checkpoint}", "format=refinenet_pytorch", f"output={output}"))
    names = torch.load(output, weights_only=True).keys()
    assert "clf_conv.weight" in names
    assert not any("aux" in name for name in names)


def test_a_run_is_not_gone_on_with_without_its_heads(run: SimpleNamespace) -> None:
    before = read_checkpoint(run.checkpoint)
    refuse_other_run(before, before.config, before.classes)
    without = before.config | {"model": before.config["model"] | {"auxiliary": None}}
    with pytest.raises(UserError, match=r"of a run with model.auxiliary=0.5, not None"):
        refuse_other_run(before, without, before.classes)
    older = {key: value for key, value in before.config["model"].items() if key != "auxiliary"}
    plain = SimpleNamespace(**vars(before) | {"config": before.config | {"model": older}})
    refuse_other_run(plain, without, before.classes)  # type: ignore[arg-type]


def test_a_module_from_a_checkpoint_scores_without_them(run: SimpleNamespace) -> None:
    module = SegmentationModule.load_from_checkpoint(run.checkpoint)
    assert module.net.heads == []
    assert module.net.decoder.auxiliary is None


def test_a_run_with_heads_starts_one_without(run: SimpleNamespace, tmp_path: Path) -> None:
    options = [each for each in TINY if "auxiliary" not in each]
    started = train(config("train", *options, f"init_from={run.checkpoint}", "recipe.lr=1e-12"), tmp_path)
    assert started.pixel_acc is not None
    assert started.params == run.summary.params
