"""Configs of others, alone and within checkpoints, run nothing but classes of ours, of the kind that is asked for."""

import sys
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TypeIn
from PIL import Image
from safetensors.torch import save

from segrefine.checkpoints import KEY, describe
from segrefine.configs import read_group
from segrefine.data import create_datamodule
from segrefine.data.datamodule import SegmentationDataModule
from segrefine.decoders import FCNDecoder
from segrefine.decoders.base import Decoder
from segrefine.errors import UserError
from segrefine.labels import voc_colour_map
from segrefine.model import build_model, create_model
from segrefine.targets import find_class

STRANGERS = [
    "os.system",
    "subprocess.Popen",
    "torch.hub.load",
    "torch.nn.Identity",
    "lightning.pytorch.cli.LightningCLI",
    "segrefine.cli.subprocess.Popen",
    "segrefine.configs.Path",
    "segrefine.atomic.write_text",
    "segrefine.decoders",
    "segrefine",
    "system",
    "..os.system",
    "",
    None,
    3,
]


def test_a_class_is_found_by_its_name() -> None:
    assert find_class("model._target_", "segrefine.decoders.FCNDecoder", Decoder) is FCNDecoder


@pytest.mark.parametrize("target", STRANGERS)
@pytest.mark.parametrize("base", [Decoder, SegmentationDataModule])
def test_what_is_no_class_of_ours_for_the_place_is_refused(target: object, base: type) -> None:
    with pytest.raises(UserError, match=r"^model\._target_="):
        find_class("model._target_", target, base)


def package(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of a decoder, which when imported leaves a file behind."""
    (folder / "theirs.py").write_text(
        "from pathlib import Path\nfrom segrefine.decoders import FCNDecoder\n"
        f"Path({str(folder / 'ran')!r}).touch()\nclass Ours(FCNDecoder): pass\n"
    )
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, "theirs", raising=False)
    return folder / "ran"


def test_a_package_of_others_is_imported_when_the_user_trusts_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = package(tmp_path, monkeypatch)
    for trust in (None, "", "other", "theirs.sub", "the", "theirs2"):
        monkeypatch.delenv("SEGREFINE_TRUST", raising=False)
        if trust is not None:
            monkeypatch.setenv("SEGREFINE_TRUST", trust)
        with pytest.raises(UserError, match=r"name it in the environment: SEGREFINE_TRUST=theirs\."):
            find_class("model._target_", "theirs.Ours", Decoder)
        assert not ran.exists()
    monkeypatch.setenv("SEGREFINE_TRUST", "other, theirs")
    net = build_model(read_group("model", "fcn8s") | {"_target_": "theirs.Ours"}, read_group("backbone", "resnet18"), 3)
    assert type(net.decoder).__name__ == "Ours"
    assert ran.exists()


CALL = {"_target_": "os.system", "command": "touch ran"}


@pytest.mark.parametrize(
    "change",
    [
        {"_target_": "os.system"},
        {"_args_": ["touch ran"]},
        {"_partial_": True},
        {"_recursive_": True},
        {"augment": CALL},
        {"augment": {"scale": CALL}},
        {"crop_size": CALL},
        {"num_workers": CALL},
        {"extra": CALL},
    ],
)
def test_nothing_within_the_options_of_data_is_called(
    change: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        datamodule = create_datamodule(read_group("datamodule", "shapes") | change)
    except (UserError, TypeError):
        pass
    else:  # kept as a value that nobody calls
        assert datamodule.train_transform.augment.scale == CALL
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("change", [{"widths": CALL}, {"_partial_": True}, {"cascade": [CALL]}, {"crp_links": CALL}])
def test_nothing_within_the_options_of_a_model_is_called(
    change: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Exception):  # noqa: B017, PT011  values that make no sense
        build_model(read_group("model", "refinenet") | change, read_group("backbone", "resnet18"), 3)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "override",
    [
        "model._target_=os.system",
        "datamodule._target_=os.system",
        "+datamodule.augment._target_=os.system",
        "+datamodule.more='{_target_:os.system,command:touch ran}'",
        "+datamodule._args_=['touch ran']",
        "+model.widths='{_target_:os.system,command:touch ran}'",
        "+backbone._target_=os.system",
        "+hydra.callbacks.x='{_target_:os.system,command:touch ran}'",
        "+hydra.callbacks.x='{_target_:subprocess.run,args:touch ran,shell:true}'",
        "hydra.job_logging.handlers.console='{(): os.system, command: touch ran}'",
        "hydra.job_logging.handlers.console='{class: os.system, command: touch ran}'",
        "hydra.job_logging.handlers.console.stream='ext://os.system'",
        "+hydra.job_logging.filters.x='{(): subprocess.Popen, args: [touch, ran]}'",
        "hydra.launcher._target_=os.system",
        "hydra.sweeper._target_=os.system",
    ],
)
def test_overrides_call_nothing(override: str, tmp_path: Path, type_in: TypeIn) -> None:
    multirun = ["-m"] if override.startswith(("hydra.launcher", "hydra.sweeper")) else []
    result = type_in("train.py", *multirun, override, "trainer=debug", "logger=none", "recipe.loss=stop")
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "ran").exists()
    if not override.startswith(("hydra.job_logging.handlers.console.stream", "+model.widths", "+backbone")):
        assert "recipe.loss=stop" not in result.stderr  # refused for itself


CLASSES = create_datamodule(read_group("datamodule", "shapes")).classes


def saved(config: dict[str, Any], path: Path) -> Path:
    net = create_model("fcn32s", "resnet18", 8)
    tensors = {f"net.{name}": tensor for name, tensor in net.state_dict().items()}
    torch.save({"state_dict": tensors, KEY: describe(config, CLASSES, voc_colour_map(8))}, path)
    return path


CONFIG = {
    "model": read_group("model", "fcn32s"),
    "backbone": read_group("backbone", "resnet18"),
    "datamodule": read_group("datamodule", "shapes"),
}


@pytest.mark.parametrize(
    ("group", "change", "message"),
    [
        ("model", {"_target_": "os.system"}, "model._target_=os.system is no class of segrefine"),
        ("model", {"_target_": "segrefine.data.shapes.ShapesDataModule"}, "is no Decoder"),
        ("datamodule", {"_target_": "os.system"}, "datamodule._target_=os.system is no class of segrefine"),
        ("backbone", {"name": "${oc.env:SECRET}"}, "${oc.env:SECRET}"),
        ("model", {"upsample": "${oc.decode:'x'}"}, "${oc.decode:'x'}"),
        ("datamodule", {"augment": {"scale": ["${oc.env:SECRET}"]}}, "${oc.env:SECRET}"),
        ("model", {"defaults": [{"/logger": "wandb"}]}, "defaults"),
    ],
)
@pytest.mark.parametrize("script", ["evaluate.py", "predict.py", "segrefine.export"])
def test_a_checkpoint_brings_no_calls_and_no_secrets(
    script: str,
    group: str,
    change: dict[str, Any],
    message: str,
    tmp_path: Path,
    type_in: TypeIn,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if group == "datamodule" and script != "evaluate.py":
        pytest.skip("looks at no data")
    monkeypatch.setenv("SECRET", "hush")
    Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
    path = saved(CONFIG | {group: CONFIG[group] | change}, tmp_path / "best.ckpt")
    more = {
        "evaluate.py": ["trainer=debug"],
        "predict.py": [f"input={tmp_path / 'a.png'}", f"output={tmp_path / 'out'}"],
        "segrefine.export": ["format=torchvision", f"output={tmp_path / 'out'}"],
    }
    result = type_in(script, f"checkpoint={path}", *more[script])
    assert result.returncode == 2, result.stderr
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert "hush" not in result.stderr + "".join(
        file.read_text(errors="replace") for file in tmp_path.rglob("*.yaml") if file.is_file()
    )


class Planted:
    """Pickled, it is a command that is run when somebody loads it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        import os

        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize(
    "command",
    [
        "train.py trainer=debug logger=none ckpt_path=FILE",
        "train.py trainer=debug logger=none init_from=FILE",
        "train.py trainer=debug logger=none backbone.weights=FILE",
        "evaluate.py checkpoint=FILE",
        "predict.py checkpoint=FILE input=. output=out",
        "segrefine.export checkpoint=FILE format=onnx output=out",
    ],
)
@pytest.mark.parametrize("name", ["evil.ckpt", "evil.pth", "evil.safetensors", "evil.caffemodel"])
def test_code_in_files_of_weights_is_not_run(command: str, name: str, tmp_path: Path, type_in: TypeIn) -> None:
    content = {"state_dict": {"net.x": torch.ones(1)}, "optimizer_states": [Planted(tmp_path / "ran")]}
    torch.save(content, tmp_path / name)
    result = type_in(*command.replace("FILE", name).split())
    assert result.returncode == 2, result.stderr
    assert name in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "ran").exists()
    torch.load(BytesIO((tmp_path / name).read_bytes()), weights_only=False)  # it would have run
    assert (tmp_path / "ran").exists()


def test_safetensors_within_other_names_are_read_as_tensors_alone(tmp_path: Path, type_in: TypeIn) -> None:
    (tmp_path / "net.pth").write_bytes(save({"x": torch.ones(1)}))
    result = type_in("predict.py", "checkpoint=net.pth", "input=.", "output=out")
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
