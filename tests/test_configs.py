"""Every file of the config folder composes and builds; a new file is tested unasked."""

import tomllib
from ast import literal_eval
from collections.abc import Iterator
from dataclasses import fields, replace
from functools import cache
from itertools import zip_longest
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException, MissingConfigException
from lightning import Trainer
from omegaconf import DictConfig, OmegaConf

from segrefine.cli.options import EXTRAS, explain
from segrefine.core.config import CONFIG_FOLDER, flatten, read_group
from segrefine.core.registry import DATAMODULES, DECODERS
from segrefine.data.datamodule import SegmentationDataModule
from segrefine.engine.optim import create_optimizer, parameter_groups
from segrefine.engine.precision import choose_precision
from segrefine.engine.recipe import Recipe
from segrefine.models.build import build_model
from segrefine.models.encoders import BACKBONES

CHECKOUT = Path(__file__).parents[1]
FOLDER = CHECKOUT / "experiments/configs/experiment"


def names(group: str) -> list[str]:
    """The files of a config group that stand for a choice."""
    return sorted(file.stem for file in (CONFIG_FOLDER / group).glob("*.yaml"))


def flat(mapping: dict[str, Any]) -> set[str]:
    """All keys, nested ones after a dot."""
    nested = {f"{key}.{inner}" for key, value in mapping.items() if isinstance(value, dict) for inner in flat(value)}
    return nested | mapping.keys()


EXPERIMENTS = sorted(file.relative_to(FOLDER).with_suffix("").as_posix() for file in FOLDER.rglob("*.yaml"))
COMMANDS = sorted(file.stem for file in CONFIG_FOLDER.glob("*.yaml"))
GROUPS = {
    "model": {
        *("fcn32s", "fcn16s", "fcn8s", "fcn4s", "fcn8s_atonce", "fcn_dilated", "refinenet", "refinenet_single"),
        *("refinenet_2cascade", "refinenet_2scale", "refinenet_improved", "refinenet_lw"),
        *("deeplab_largefov", "segnet", "deconvnet", "deconvnet_slim", "smp_fpn", "smp_unet", "smp_unetplusplus"),
        *("smp_deeplabv3plus", "smp_pspnet", "smp_upernet", "smp_segformer"),
    },
    "backbone": set(BACKBONES),
    "datamodule": {
        *("shapes", "camvid", "folder", "voc2012", "voc2012_aug", "voc2011", "nyudv2", "pascal_context", "siftflow"),
        *("sunrgbd", "ade20k", "cityscapes", "person_part"),
    },
    "trainer": {"default", "cpu", "gpu", "ddp", "debug"},
    "recipe": {"default", "camvid", "fcn_heavy", "fcn_2015", "refinenet_2017", "lightweight_2018"},
    "logger": {"default", "wandb", "csv", "tensorboard", "none"},
}


OVER_VGG = {"deeplab_largefov", "segnet", "deconvnet", "deconvnet_slim"}
"""Models that take no other backbone."""

PACKAGES = {
    "optuna": "hydra_optuna_sweeper",
    "submitit_slurm": "hydra_submitit_launcher",
    "submitit_local": "hydra_submitit_launcher",
}
"""Of the values of Hydra's groups that are not its own."""


def choices(*groups: str) -> list[tuple[str, str]]:
    return [(group, name) for group in groups for name in names(group)]


@pytest.fixture(autouse=True, scope="module")
def _hydra() -> Iterator[None]:
    """Hydra reads every file once for all tests here."""
    with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
        yield


@cache
def composed(*overrides: str) -> DictConfig:
    """What `train.py` is given for these words on its command line."""
    return compose("train", overrides=list(overrides))


def plain(config: Any) -> Any:
    return OmegaConf.to_container(config, resolve=True)


@pytest.mark.parametrize("group", GROUPS)
def test_groups_offer_what_users_are_told_of(group: str) -> None:
    assert set(names(group)) >= GROUPS[group]


PLACES = ("model", "backbone", "datamodule", "trainer", "logger")
TOGETHER = list(zip_longest(*(choices(group) for group in PLACES)))
"""Choices of several groups at a time, since to compose takes long."""


@pytest.mark.parametrize("chosen", TOGETHER, ids=lambda chosen: "-".join(name for _, name in filter(None, chosen)))
def test_every_choice_composes_into_its_place_alone(chosen: tuple[tuple[str, str] | None, ...]) -> None:
    files = dict(filter(None, chosen))
    cfg, default = plain(composed(*(f"{group}={name}" for group, name in files.items()))), plain(composed())
    assert {group: cfg[group] for group in files} == {group: read_group(group, name) for group, name in files.items()}
    assert cfg | dict.fromkeys(files) == default | dict.fromkeys(files)


@pytest.mark.parametrize("name", names("recipe"))
def test_recipes_set_options_that_are_there_and_of_their_own_group_the_network_and_the_data_alone(name: str) -> None:
    default, cfg = plain(composed()), plain(composed(f"recipe={name}"))
    parts = ("recipe", "model", "datamodule")
    for part in parts:
        assert flat(cfg[part]) == flat(default[part])
    assert cfg | dict.fromkeys(parts) == default | dict.fromkeys(parts)
    options = yaml.safe_load((CONFIG_FOLDER / "recipe" / f"{name}.yaml").read_text()).get("datamodule", {})
    for datamodule in names("datamodule"):
        assert flat(options) <= flat(read_group("datamodule", datamodule)), datamodule


def test_recipes_hold_the_published_values() -> None:
    """Optimizer, rates and decay as the releases and papers give them."""
    ours = {"default", "camvid"}
    keys = ("optimizer", "lr", "momentum", "weight_decay", "bias_lr_multiplier", "bias_decay")
    keys += ("encoder_lr_multiplier", "loss")
    recipes = {name: plain(composed(f"recipe={name}").recipe) for name in {*names("recipe")} - ours}
    assert {name: tuple(recipe[key] for key in keys) for name, recipe in recipes.items()} == {
        "fcn_heavy": ("sgd", 1e-10, 0.99, 5e-4, 2.0, False, 1.0, "sum"),
        "fcn_2015": ("sgd", 1e-4, 0.9, 5e-4, 2.0, True, 1.0, "mean"),
        "refinenet_2017": ("sgd", 5e-4, 0.9, 5e-4, 1.0, True, 0.1, "mean"),
        "lightweight_2018": ("sgd", 5e-3, 0.9, 1e-5, 1.0, True, 0.1, "mean"),
    }
    assert {recipe["schedule"]["warmup_steps"] for recipe in recipes.values()} == {0}


@pytest.mark.parametrize(("group", "name"), choices("model", "backbone", "datamodule"))
def test_name_in_a_file_is_the_files(group: str, name: str) -> None:
    assert read_group(group, name)["name"] == name


@pytest.mark.parametrize(("group", "name"), choices("trainer"))
def test_files_of_a_group_have_the_same_keys(group: str, name: str) -> None:
    """So that an option is always there, whichever file is chosen."""
    assert read_group(group, name).keys() == read_group(group, "default").keys()


def test_loggers_are_combined() -> None:
    assert plain(composed("logger=[csv,wandb]").logger) == plain(composed().logger)
    assert plain(composed("logger=csv").logger) == {"csv": True}
    assert plain(composed("logger=tensorboard").logger) == {"csv": True, "tensorboard": True}
    assert plain(composed("logger=none").logger) == {}


def test_datamodules_share_the_options_that_are_always_there() -> None:
    always = {"batch_size", "eval_batch_size", "crop_size", "num_workers", "augment"}
    assert all(read_group("datamodule", name).keys() >= always for name in names("datamodule"))


@pytest.mark.parametrize("model", names("model"))
def test_every_model_builds_as_composed(model: str) -> None:
    options = plain(composed(f"model={model}").model)
    backbone = composed(f"backbone={'vgg16' if model in OVER_VGG else 'resnet50'}").backbone
    with torch.device("meta"):
        net = build_model(options, plain(backbone), 11)
    assert type(net.decoder) is DECODERS.find(options["decoder"])


@pytest.mark.parametrize("backbone", names("backbone"))
def test_every_backbone_builds_as_composed(backbone: str) -> None:
    options = plain(composed(f"backbone={backbone}").backbone)
    with torch.device("meta"):
        net = build_model(plain(composed("model=refinenet_lw").model), options, 11)
    assert options["weights"] is None
    assert list(net.encoder.channels) == [4, 8, 16, 32]


def test_options_of_the_command_line_reach_the_network() -> None:
    with torch.device("meta"):
        cfg = composed("model=refinenet", "model.crp_links=1", "model.cascade=[[32],[4]]")
        refinenet = build_model(plain(cfg.model), plain(cfg.backbone), 3).decoder
        cfg = composed("model.upsample=interpolate", "backbone=vgg11", "backbone.classifier_channels=16")
        fcn = build_model(plain(cfg.model), plain(cfg.backbone), 3)
    assert [len(block.pool.convs) for block in refinenet.blocks] == [1, 1]
    assert len(fcn.decoder.upsample["32"].state_dict()) == 0
    assert fcn.encoder.channels[32] == 16


def test_unknown_option_or_choice_does_not_compose() -> None:
    for override in ("model.crp_links=2", "model=unet", "nonsense=1", "recipe.learning_rate=1"):
        with pytest.raises(HydraException):
            composed(override)


@pytest.mark.parametrize("name", names("datamodule"))
def test_every_datamodule_is_one_of_ours(name: str) -> None:
    kind = DATAMODULES.find(read_group("datamodule", name)["kind"])
    assert issubclass(kind, SegmentationDataModule)
    known = {field.name for field in fields(kind.Options)}
    assert read_group("datamodule", name).keys() - {"kind"} <= known


@pytest.mark.parametrize("name", names("trainer"))
def test_trainers_hold_options_of_lightning(name: str, tmp_path: Path) -> None:
    """Built for the CPU where the file asks for GPUs, which need not be here."""
    options = read_group("trainer", name)
    asked, patience = options["accelerator"], options.pop("early_stopping")  # which is segrefine's
    assert patience is None
    options |= {"precision": choose_precision(options["precision"], "cpu")}
    options |= {"accelerator": "cpu", "devices": 1, "strategy": "auto"} if asked in ("gpu", "auto") else {}
    trainer = Trainer(**options, logger=False, enable_checkpointing=False, default_root_dir=tmp_path)
    assert trainer.max_epochs == options["max_epochs"]
    assert trainer.max_steps == options["max_steps"]
    assert trainer.limit_val_batches == options["limit_val_batches"]


def test_trainers_differ_in_device_and_length_alone() -> None:
    expected = {
        "default": ("auto", "auto", "auto"),
        "cpu": ("cpu", 1, "auto"),
        "gpu": ("gpu", 1, "auto"),
        "ddp": ("gpu", "auto", "ddp"),
        "debug": ("cpu", 1, "auto"),
    }
    files = {name: read_group("trainer", name) for name in expected}
    keys = ("accelerator", "devices", "strategy")
    assert {name: tuple(file.pop(key) for key in keys) for name, file in files.items()} == expected
    assert files["cpu"] == files["gpu"] == files["ddp"] == files["default"]


@pytest.mark.parametrize("name", names("recipe"))
def test_every_recipe_makes_an_optimizer_and_a_schedule(name: str) -> None:
    recipe = Recipe.from_config(plain(composed(f"recipe={name}").recipe))
    assert recipe.encoder_lr_multiplier == "auto" or recipe.encoder_lr_multiplier > 0
    with torch.device("meta"):
        net = build_model(read_group("model", "fcn8s"), read_group("backbone", "resnet18"), 3)
    recipe = replace(recipe, encoder_lr_multiplier=1.0)
    optimizer = create_optimizer(parameter_groups(net, recipe, recipe.lr), recipe)
    assert {group["lr"] for group in optimizer.param_groups} == {recipe.lr, recipe.lr * recipe.bias_lr_multiplier}
    factor = recipe.schedule.factor(100)
    assert 0 <= factor(99) <= factor(50) <= 1


@cache
def output_shape(options: str) -> tuple[int, ...]:
    """Of a network for images (2, 3, 33, 47) and 11 classes. Many experiments share one."""
    with torch.device("meta"):
        net = build_model(*literal_eval(options), 11).eval()
        return tuple(net(torch.empty(2, 3, 33, 47)).shape)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_composes_and_builds(name: str) -> None:
    cfg = composed(f"+experiment={name}")
    assert output_shape(repr((plain(cfg.model), plain(cfg.backbone) | {"weights": None}))) == (2, 11, 33, 47)


def test_an_experiment_overrides_what_it_names(tmp_path: Path) -> None:
    folder = copytree(CONFIG_FOLDER, tmp_path / "conf")
    (folder / "experiment").mkdir()
    text = "# @package _global_\ndefaults:\n  - override /model: refinenet\nseed: 7\nmodel:\n  crp_links: 1\n"
    (folder / "experiment" / "mine.yaml").write_text(text)
    packages = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(folder), version_base="1.3"):
        words = [], ["+experiment=mine"], ["+experiment=mine", "seed=8"]
        default, cfg, again = (compose("train", overrides=overrides) for overrides in words)
    GlobalHydra.instance().hydra = packages
    assert (default.model.name, default.seed) == ("fcn8s", 0)
    assert (cfg.model.name, cfg.model.crp_links, cfg.seed) == ("refinenet", 1, 7)
    assert again.seed == 8


HYDRA = sorted(file.relative_to(CONFIG_FOLDER / "hydra") for file in (CONFIG_FOLDER / "hydra").glob("*/*.yaml"))


@pytest.mark.parametrize("file", HYDRA, ids=str)
def test_every_choice_for_hydra_composes(file: Path) -> None:
    """Every value of the file reaches Hydra, and no other of the run changes."""
    options = yaml.safe_load((CONFIG_FOLDER / "hydra" / file).read_text())
    for base in {str(entry) for entry in options.pop("defaults", [])} & EXTRAS.keys():
        pytest.importorskip(f"hydra_plugins.{PACKAGES[base]}", reason=f"needs the {EXTRAS[base]} extra")
    cfg = compose("train", [f"hydra/{file.parent}={file.stem}"], return_hydra_config=True)
    group = OmegaConf.to_container(cfg.hydra[file.parent.name], resolve=False)
    assert {key: group[key] for key in options if key != "sampler"} == {
        key: value for key, value in options.items() if key != "sampler"
    }
    assert flatten(options.get("sampler", {})).items() <= flatten(group.get("sampler", {})).items()
    OmegaConf.to_container(OmegaConf.masked_copy(cfg, [key for key in cfg if key != "hydra"]), resolve=True)


def test_a_search_is_over_options_that_recipes_have() -> None:
    searched = yaml.safe_load((CONFIG_FOLDER / "hydra/sweeper/recipe_search.yaml").read_text())["params"]
    known = {f"recipe.{key}" for key in flatten(read_group("recipe", "default"))}
    assert searched.keys() <= known


def test_a_plugin_that_is_missing_is_told_with_its_extra() -> None:
    extras = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for name, extra in EXTRAS.items():
        error = MissingConfigException("", f"hydra/launcher/{name}", ["basic"])
        assert f'pip install -e ".[{extra}]"' in explain(error, "train")
        assert any(PACKAGES[name].replace("_", "-") in requirement for requirement in extras[extra])


@pytest.mark.parametrize("command", COMMANDS)
def test_options_of_a_command_are_named_in_its_help(command: str) -> None:
    """A user finds every top-level option in `--help`."""
    file = yaml.safe_load((CONFIG_FOLDER / f"{command}.yaml").read_text())
    options = file.keys() - {"defaults", "hydra"}
    template = file["hydra"]["help"]["template"]
    assert [option for option in options if option not in template] == []
