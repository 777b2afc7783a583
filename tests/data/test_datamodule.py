import logging
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from builders import make
from lightning import LightningModule, Trainer
from torch import Tensor

from segrefine.core.config import CONFIG_FOLDER, read_group
from segrefine.core.errors import UserError
from segrefine.core.options import make_options
from segrefine.data.build import build_datamodule
from segrefine.data.class_weights import median_frequency
from segrefine.data.datamodule import SegmentationDataModule
from segrefine.data.dataset import SegmentationDataset, Transform
from segrefine.data.sets.shapes import ShapesDataModule

CONF = CONFIG_FOLDER / "datamodule"


class Listed(SegmentationDataset):
    """Labels from a list; each image repeats its label."""

    def __init__(self, labels: list[Tensor], transform: Transform | None) -> None:
        super().__init__([f"item{index}" for index in range(len(labels))], transform)
        self.labels = labels

    def read(self, index: int) -> tuple[Tensor, Tensor]:
        return self.labels[index].expand(3, -1, -1), self.labels[index]


class ListedDataModule(SegmentationDataModule):
    in_memory = True
    classes = ["a", "b", "c", "d"]  # noqa: RUF012

    def __init__(self, labels: list[Tensor], **options: object) -> None:
        super().__init__(make_options(self.Options, options, "datamodule", "datamodule."))
        self.labels = labels

    def dataset(self, split: str, transform: Transform | None = None) -> Listed:
        return Listed(self.labels, transform)


def labels_of_sizes(*sizes: tuple[int, int]) -> list[Tensor]:
    return [torch.zeros(size, dtype=torch.uint8) for size in sizes]


@pytest.mark.parametrize("stage", ["fit", "validate", "test"])
def test_fewer_images_than_processes_are_refused_before_the_training(stage: str) -> None:
    datamodule = ListedDataModule(labels_of_sizes((4, 5), (4, 5)))
    for world in (1, 2):
        datamodule.trainer = SimpleNamespace(global_rank=0, world_size=world)
        datamodule.setup(stage)
    datamodule.trainer = SimpleNamespace(global_rank=0, world_size=3)
    words = f"{'train' if stage == 'fit' else stage.removesuffix('idate')} has 2 images for 3 processes"
    with pytest.raises(UserError, match=words):
        datamodule.setup(stage)


def test_batches() -> None:
    datamodule = ListedDataModule(labels_of_sizes(*[(4, 5)] * 7), batch_size=3, eval_batch_size=3)
    train = list(datamodule.train_dataloader())
    assert len(train) == 2  # only full batches
    assert train[0]["image"].shape == (3, 3, 4, 5)
    assert train[0]["label"].shape == (3, 4, 5)
    assert train[0]["image"].dtype == train[0]["label"].dtype == torch.uint8
    val = list(datamodule.val_dataloader())
    assert [len(batch["id"]) for batch in val] == [3, 3, 1]
    assert torch.cat([batch["index"] for batch in val]).tolist() == list(range(7))
    assert val[2]["id"] == ["item6"]


def test_train_batches_are_shuffled_anew_every_epoch() -> None:
    loader = ListedDataModule(labels_of_sizes(*[(2, 2)] * 40), batch_size=40).train_dataloader()
    first = next(iter(loader))["index"].tolist()
    loader.sampler.set_epoch(1)  # type: ignore[attr-defined]
    second = next(iter(loader))["index"].tolist()
    assert sorted(first) == sorted(second) == list(range(40))
    assert first != second
    loader.sampler.set_epoch(0)  # type: ignore[attr-defined]
    assert next(iter(loader))["index"].tolist() == first


@pytest.mark.parametrize("workers", [0, 2])
def test_what_is_changed_at_random_does_not_depend_on_the_readers(workers: int) -> None:
    options = {"batch_size": 3, "crop_size": 9, "augment": {"scale": [0.5, 2.0], "flip": True, "jitter": 0.5}}
    labels = [torch.randint(0, 3, (20, 30), dtype=torch.uint8) for _ in range(9)]
    one = list(ListedDataModule(labels, **options).train_dataloader())
    torch.manual_seed(1)  # what was drawn before does not matter either
    other = list(ListedDataModule(labels, num_workers=workers, **options).train_dataloader())
    for batch, again in zip(one, other, strict=True):
        assert torch.equal(batch["image"], again["image"])
        assert torch.equal(batch["label"], again["label"])


def test_train_set_smaller_than_a_batch_is_refused() -> None:
    with pytest.raises(UserError, match=r"batch_size=8 is more than the 7 training images"):
        ListedDataModule(labels_of_sizes(*[(4, 5)] * 7)).train_dataloader()


def test_a_batch_is_refused_by_the_images_of_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    datamodule = ListedDataModule(labels_of_sizes(*[(4, 5)] * 9))
    monkeypatch.setattr(datamodule, "_place", lambda: (0, 2))
    with pytest.raises(UserError, match=r"batch_size=8 is .* 9 .*shared by 2 processes\. Set it to 4 or less"):
        datamodule.train_dataloader()


def test_batch_of_different_sizes_says_what_to_set() -> None:
    labels = labels_of_sizes((4, 5), (4, 6))
    with pytest.raises(UserError, match=r"item0 4x5, item1 4x6.*datamodule\.eval_batch_size=1"):
        next(iter(ListedDataModule(labels, eval_batch_size=2).val_dataloader()))
    assert len(list(ListedDataModule(labels).val_dataloader())) == 2
    with pytest.raises(UserError, match=r"datamodule\.crop_size"):
        next(iter(ListedDataModule(labels, batch_size=2).train_dataloader()))
    cropped = ListedDataModule(labels, batch_size=2, crop_size=3).train_dataloader()
    assert next(iter(cropped))["label"].shape == (2, 3, 3)


def test_evaluation_changes_nothing() -> None:
    label = torch.arange(20, dtype=torch.uint8).reshape(4, 5) % 4
    augment = {"scale": [0.5, 2.0], "flip": True, "jitter": 0.5, "class_sampled": True}
    datamodule = ListedDataModule([label], batch_size=1, crop_size=3, augment=augment)
    for batch in (*datamodule.val_dataloader(), *datamodule.test_dataloader()):
        assert torch.equal(batch["label"][0], label)
        assert torch.equal(batch["image"][0], label.expand(3, -1, -1))


@pytest.mark.parametrize("workers", ["many", -1, 1.5])
def test_bad_number_of_workers(workers: object) -> None:
    with pytest.raises(UserError, match="num_workers"):
        ListedDataModule([], num_workers=workers)


def test_workers_give_the_same_evaluation_batches() -> None:
    labels = [torch.full((3, 4), index, dtype=torch.uint8) for index in range(5)]
    loader = ListedDataModule(labels, eval_batch_size=2, num_workers=2).val_dataloader()
    assert torch.equal(torch.cat([batch["label"] for batch in loader]), torch.stack(labels))


def test_median_frequency_by_hand() -> None:
    """Two images of 10 and 20 pixels. Class a: 4 of the first 8 and 5 of the 20 valid ones; b: 4 of 8; c: 15 of 20."""
    first = torch.tensor([[0, 0, 0, 0, 1], [1, 1, 1, 255, 255]], dtype=torch.uint8)
    second = torch.tensor([[0] * 5, [2] * 5, [2] * 5, [2] * 5], dtype=torch.uint8)
    datamodule = ListedDataModule([first, second])
    assert datamodule.histograms.tolist() == [[4, 4, 0, 0], [5, 0, 15, 0]]
    weights = datamodule.median_frequency_weights()
    assert weights.dtype == torch.float32
    median = 4 / 8  # of 9/28, 4/8, 15/20
    assert weights.tolist() == pytest.approx([median / (9 / 28), 1.0, median / 0.75, 0.0])


def test_class_that_never_occurs_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        ListedDataModule(labels_of_sizes((2, 2))).median_frequency_weights()
    assert [record.args[0] for record in caplog.records] == ["b", "c", "d"]


def test_statistics_against_a_loop() -> None:
    histograms = np.random.default_rng(0).integers(0, 4, (9, 5)) ** 3
    frequencies = [
        sum(row[index] for row in histograms) / sum(row.sum() for row in histograms if row[index]) for index in range(5)
    ]
    expected = [sorted(frequencies)[2] / frequency for frequency in frequencies]
    assert median_frequency(histograms).tolist() == pytest.approx(expected)
    assert (median_frequency(np.zeros((2, 3), int)) == 0).all()


@pytest.mark.parametrize(("images", "world"), [(5, 2), (7, 3), (2, 3), (6, 2)])
def test_processes_share_out_the_images_to_score(images: int, world: int) -> None:
    """All of them, none twice, and none has two more than another."""
    shares = []
    for rank in range(world):
        datamodule = ListedDataModule(labels_of_sizes(*[(4, 5)] * images))
        datamodule.trainer = SimpleNamespace(global_rank=rank, world_size=world)  # type: ignore[assignment]
        shares.append([name for batch in datamodule.val_dataloader() for name in batch["id"]])
    assert sorted(name for share in shares for name in share) == [f"item{index}" for index in range(images)]
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_trainer_runs_the_stages(tmp_path: Path) -> None:
    class Counter(LightningModule):
        seen = 0

        def training_step(self, batch: dict) -> None:
            self.seen += len(batch["id"])

        def validation_step(self, batch: dict) -> None:
            self.seen += len(batch["id"])

        test_step = validation_step

        def configure_optimizers(self) -> None:
            return None

    datamodule = make(ShapesDataModule, train_size=5, val_size=3, test_size=2, batch_size=2)
    trainer = Trainer(
        max_epochs=1,
        num_sanity_val_steps=0,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_checkpointing=False,
        default_root_dir=tmp_path,
    )
    module = Counter()
    trainer.fit(module, datamodule)
    assert module.seen == 4 + 3
    trainer.test(module, datamodule, verbose=False)
    assert module.seen == 4 + 3 + 2


@pytest.mark.parametrize("path", sorted(CONF.glob("*.yaml")), ids=lambda path: path.stem)
def test_configs_build_and_name_themselves(path: Path) -> None:
    """Without a root, too: what needs the files comes later."""
    datamodule = build_datamodule(read_group("datamodule", path.stem))
    assert isinstance(datamodule, SegmentationDataModule)
    assert datamodule.name == path.stem
