"""Names of decoders and data modules: a user's own, those of older versions, and that nothing in a file is ever run."""

import lzma
import sys
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TypeIn
from hydra import compose, initialize_config_dir
from PIL import Image
from safetensors.torch import save

import segrefine
from segrefine.core.config import CONFIG_FOLDER, list_datasets, list_models, read_group
from segrefine.core.errors import UserError
from segrefine.core.labels import voc_color_map
from segrefine.core.registry import DATAMODULES, DECODERS, register_decoder, rename_classes
from segrefine.data.build import build_datamodule
from segrefine.engine.module import SegmentationModule
from segrefine.engine.train import train
from segrefine.models.build import build_model, create_model
from segrefine.models.decoders import FCNDecoder
from segrefine.runs.read import read_run
from segrefine.weights.checkpoint import KEY, describe, load_model

LEGACY = Path(__file__).parents[1] / "legacy"
"""What the last version with class paths wrote: a checkpoint after one of two epochs, its weights replaced by a few
numbers (which pack well), and the folder of that run."""

STRANGERS = [
    *("os.system", "subprocess.Popen", "torch.nn.Identity", "segrefine.core.config.Path", "segrefine.models.decoders"),
    *("segrefine.models.decoders.FCNDecoder", "segrefine", "system", "..os.system", "", None, 3, ["fcn"], {"a": "fcn"}),
]


@pytest.mark.parametrize("name", STRANGERS)
@pytest.mark.parametrize("registry", [DECODERS, DATAMODULES])
def test_a_name_that_is_not_registered_is_refused(name: object, registry: Any) -> None:
    with pytest.raises(UserError, match=rf"^{registry.group}\.{registry.key}=.* is not a registered {registry.title}"):
        registry.find(name)
    with pytest.raises(UserError, match=r"^(model|datamodule)\._target_=.* class paths in files are never imported"):
        registry.rename({"_target_": name})


def test_a_name_near_a_registered_one_is_suggested() -> None:
    assert DECODERS.find("fcn") is FCNDecoder
    with pytest.raises(UserError, match=r"Did you mean 'camvid'"):
        DATAMODULES.find("camvd")


def test_a_name_is_given_once() -> None:
    with pytest.raises(UserError, match="The decoder name 'fcn' is taken by"):
        register_decoder("fcn")(type("Other", (), {}))
    assert register_decoder("fcn")(FCNDecoder) is FCNDecoder  # the same again changes nothing


PLUGIN = """
from dataclasses import dataclass
from pathlib import Path
import segrefine
from segrefine.data.sets.shapes import ShapesDataModule
from segrefine.models.decoders import FCNDecoder

@segrefine.register_decoder("half_fcn")
class HalfFCN(FCNDecoder):
    @dataclass(frozen=True, kw_only=True)
    class Options(FCNDecoder.Options):
        skips: tuple = (32,)
        skip_scales: dict | None = None
        upsample: str = "interpolate"
        geometry: str = "same"
        half: float = 0.5

    def __init__(self, channels, centers, num_classes, options):
        super().__init__(channels, centers, num_classes, FCNDecoder.Options(
            skips=options.skips, skip_scales={}, upsample=options.upsample, geometry=options.geometry))
        self.half = options.half

    def forward(self, features):
        return super().forward(features) * self.half

@segrefine.register_datamodule("my_scenes")
class MyScenes(ShapesDataModule):
    pass
"""


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module of a user in the working directory, which leaves a file behind when it is imported."""
    text = PLUGIN + f"\nPath({str(tmp_path / 'ran')!r}).touch()\n"
    (tmp_path / "theirs.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "theirs", raising=False)
    for registry in (DECODERS, DATAMODULES):
        monkeypatch.setattr(registry, "_classes", dict(registry._classes))
    return tmp_path / "ran"


def test_a_users_own_classes_have_names_like_any_other(plugin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "half_fcn" not in list_models()
    assert not plugin.exists()
    monkeypatch.setenv("SEGREFINE_PLUGINS", "theirs")
    assert plugin.exists() is False
    assert "half_fcn" in list_models()
    assert "my_scenes" in list_datasets()
    assert plugin.exists()
    net = create_model("half_fcn", "resnet18", 3, half=0.25)
    assert (type(net.decoder).__name__, net.decoder.half) == ("HalfFCN", 0.25)
    scenes = segrefine.create_datamodule("my_scenes", val_size=2)
    assert (type(scenes).__name__, len(scenes.dataset("val"))) == ("MyScenes", 2)
    with pytest.raises(UserError, match="half_fcn over resnet18 has no option 'hal'"):
        create_model("half_fcn", "resnet18", 3, hal=0.25)


def test_a_class_of_another_kind_is_refused_when_it_is_used(plugin: Path) -> None:
    register_decoder("no_decoder")(torch.nn.Identity)
    with pytest.raises(UserError, match=r"model\.decoder=no_decoder: Identity must extend segrefine\.Decoder"):
        build_model({"name": "x", "decoder": "no_decoder"}, read_group("backbone", "resnet18"), 3)
    segrefine.register_datamodule("no_data")(torch.nn.Identity)
    with pytest.raises(UserError, match=r"datamodule\.kind=no_data: Identity must extend segrefine\.FileDataModule"):
        build_datamodule({"name": "x", "kind": "no_data"})


def test_a_name_of_a_config_file_is_taken(plugin: Path) -> None:
    """Else `model=fcn8s` would go on to mean the package's own."""
    register_decoder("fcn8s")(type("Mine", (FCNDecoder,), {}))
    with pytest.raises(UserError, match=r"model=fcn8s exists already\. Register yours under another name"):
        list_models()


def test_a_class_without_options_is_refused(plugin: Path) -> None:
    register_decoder("no_options")(torch.nn.Identity)
    with pytest.raises(UserError, match=r"model=no_options: Identity has no dataclass of Options"):
        create_model("no_options")


def test_a_plugin_with_a_mistake_is_told_once(plugin: Path, type_in: TypeIn, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("broken.py").write_text("def x(:\n")
    for name, message in {"broken": "broken.py, line 1", "no_such": "No module named 'no_such'"}.items():
        monkeypatch.setenv("SEGREFINE_PLUGINS", name)
        result = type_in("train.py", "trainer=debug")
        assert result.returncode == 2
        assert result.stderr.count(message) == 1
        assert "Traceback" not in result.stderr


def test_options_of_a_users_own_class_are_suggested(
    plugin: Path, type_in: TypeIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEGREFINE_PLUGINS", "theirs")
    assert "'model.half'" in type_in("train.py", "model=half_fcn", "model.halff=1").stderr


def test_a_plugin_that_cannot_be_imported_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("no_such_module", "./mine.py"):
        monkeypatch.setenv("SEGREFINE_PLUGINS", name)
        with pytest.raises(UserError, match=f"SEGREFINE_PLUGINS={name} cannot be imported"):
            list_models()


def test_a_users_own_classes_are_chosen_on_the_command_line_and_found_from_a_checkpoint(
    plugin: Path, type_in: TypeIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEGREFINE_PLUGINS", "theirs")
    words = ["model=half_fcn", "model.half=0.125", "datamodule=my_scenes", "datamodule.train_size=4"]
    words += ["datamodule.val_size=2", "datamodule.test_size=2", "datamodule.batch_size=2", "trainer=debug"]
    result = type_in("train.py", *words, "logger=none", "hydra.run.dir=run")
    assert result.returncode == 0, result.stderr
    net = load_model("run/checkpoints/best.ckpt")
    assert (type(net.decoder).__name__, net.decoder.half) == ("HalfFCN", 0.125)
    assert type_in("train.py", "model=half_fcm", "trainer=debug").stderr.count("Did you mean 'half_fcn'") == 1


@pytest.fixture(scope="module")
def old_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("old") / "last.ckpt"
    path.write_bytes(lzma.decompress((LEGACY / "last.ckpt.xz").read_bytes()))
    return path


def test_a_checkpoint_with_class_paths_gives_the_same_network(old_checkpoint: Path) -> None:
    """The numbers are those of the version that wrote it."""
    net = load_model(old_checkpoint)
    with torch.no_grad():
        logits = net(torch.linspace(-2, 2, 3 * 40 * 50).reshape(1, 3, 40, 50))
    assert logits[0, 0, 5, 7].item() == pytest.approx(0.018330693244934082, rel=1e-5)
    assert logits.double().sum().item() == pytest.approx(280.25973165780306, rel=1e-5)
    assert net.classes == ["background", "disc", "ring", "wire", "square", "triangle", "cross", "star"]
    assert net.num_classes == len(net.palette) == 8
    assert not net.training


def test_a_checkpoint_with_class_paths_is_resumed(old_checkpoint: Path, tmp_path: Path) -> None:
    words = ["trainer=cpu", "trainer.precision=32-true", "trainer.max_epochs=2", "logger=csv", "model=fcn32s", "seed=1"]
    words += ["datamodule.train_size=8", "datamodule.val_size=3", "datamodule.test_size=2", "datamodule.batch_size=4"]
    words += ["datamodule.crop_size=64", "recipe.optimizer=sgd", "recipe.momentum=0.0"]
    words += ["recipe.schedule.warmup_steps=0", f"ckpt_path={old_checkpoint}"]
    with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
        train(compose("train", overrides=words), tmp_path)
    checkpoint = torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 4  # two were made before
    assert checkpoint[KEY]["config"]["model"]["decoder"] == "fcn"


def test_a_module_is_loaded_as_users_of_lightning_expect(old_checkpoint: Path) -> None:
    module = SegmentationModule.load_from_checkpoint(old_checkpoint, map_location="cpu")
    assert (module.recipe.optimizer, module.recipe.momentum) == ("sgd", 0.0)
    assert module.recipe.encoder_lr_multiplier == 0.1  # auto, over weights that were trained
    images = torch.zeros(1, 3, 40, 50)
    assert torch.equal(module.net.eval()(images), load_model(old_checkpoint)(images))


def test_a_result_with_class_paths_is_read() -> None:
    run = read_run(LEGACY / "run_fcn32s_seed1")
    assert run.config["model"]["decoder"] == "fcn"
    assert run.config["datamodule"]["kind"] == "shapes"
    assert (run.seed, run.summary.split, run.summary.num_images) == (1, "test", 2)
    assert run.summary.schema_version == 1
    assert len(run.images) == 2
    assert run.curve("val/mIoU")[0].tolist() == [2.0]


@pytest.mark.parametrize("group", ["model", "datamodule"])
def test_every_class_path_of_before_has_a_name(group: str) -> None:
    registry = {"model": DECODERS, "datamodule": DATAMODULES}[group]
    for path, name in registry.former.items():
        assert rename_classes({group: {"_target_": path, "a": 1}}) == {group: {"a": 1, registry.key: name}}
        assert registry.find(name).__name__ == path.rpartition(".")[2]


@pytest.mark.parametrize("on_error", ["stop", "skip"])
def test_an_option_that_is_gone_becomes_the_one_after_it(on_error: str) -> None:
    """At its default, and in the data's options alone."""
    config = {"model": {"on_error": 1}, "datamodule": {"kind": "camvid", "on_error": on_error, "root": None}}
    renamed = rename_classes(config)
    assert renamed == {"model": {"on_error": 1}, "datamodule": {"kind": "camvid", "exclude": None, "root": None}}
    build_datamodule(renamed["datamodule"])


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
        datamodule = build_datamodule(read_group("datamodule", "shapes") | change)
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
        "+model._target_=os.system",
        "model.decoder=os.system",
        "+datamodule._target_=os.system",
        "datamodule.kind=os.system",
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


CLASSES = build_datamodule(read_group("datamodule", "shapes")).classes


def saved(config: dict[str, Any], path: Path) -> Path:
    with torch.device("meta"):
        net = create_model("fcn32s", "resnet18", 8)
    tensors = {f"net.{name}": torch.zeros(()).expand(tensor.shape) for name, tensor in net.state_dict().items()}
    torch.save({"state_dict": tensors, KEY: describe(config, CLASSES, voc_color_map(8))}, path)
    return path


CONFIG = {
    "model": read_group("model", "fcn32s"),
    "backbone": read_group("backbone", "resnet18"),
    "datamodule": read_group("datamodule", "shapes"),
}


@pytest.mark.parametrize(
    ("group", "change", "message"),
    [
        ("model", {"_target_": "os.system"}, "model._target_=os.system is not a known decoder"),
        ("model", {"decoder": "os.system"}, "model.decoder=os.system is not a registered decoder"),
        ("model", {"decoder": "shapes"}, "model.decoder=shapes is not a registered decoder"),
        ("datamodule", {"_target_": "os.system"}, "datamodule._target_=os.system is not a known data module"),
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


PREDICT = "predict.py checkpoint=FILE input=. output=out"


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("train.py trainer=debug logger=none ckpt_path=FILE", "evil.ckpt"),
        ("train.py trainer=debug logger=none init_from=FILE", "evil.ckpt"),
        ("train.py trainer=debug logger=none backbone.weights=FILE", "evil.ckpt"),
        ("evaluate.py checkpoint=FILE", "evil.ckpt"),
        ("segrefine.export checkpoint=FILE format=onnx output=out", "evil.ckpt"),
        *((PREDICT, f"evil.{suffix}") for suffix in ("ckpt", "pth", "safetensors", "caffemodel")),
    ],
)
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
