"""Which examples the data loaders left out, where datamodule.on_error=skip asks for that."""

import logging
from typing import Any

import torch.distributed
from lightning import Callback, LightningModule, Trainer

from segrefine.core.errors import UserError

log = logging.getLogger(__name__)


class LeftOutList(Callback):
    """Collects the examples that batches name as left out, over all epochs and processes: `entries`, sorted dicts of
    split, id and reason. Raises UserError at the end of an epoch in which no image at all could be used.
    """

    def __init__(self) -> None:
        self.reasons: dict[tuple[str, str], str] = {}  # by split and id
        self._used: dict[str, int] = {}  # images of an epoch in this process, by split

    def state_dict(self) -> dict[str, Any]:
        return {"entries": self.entries}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.reasons = {(entry["split"], entry["id"]): entry["reason"] for entry in state_dict["entries"]}

    @property
    def entries(self) -> list[dict[str, str]]:
        return [{"split": split, "id": id, "reason": self.reasons[split, id]} for split, id in sorted(self.reasons)]

    def warn(self) -> None:
        """One warning that names them all, if there are any."""
        if self.reasons:
            lines = [f"  {entry['split']} {entry['id']}: {entry['reason']}" for entry in self.entries]
            log.warning("\n".join([f"Left out (datamodule.on_error=skip), {len(lines)} in all:", *lines]))

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, *args: Any
    ) -> None:
        self._collect("train", batch)

    def on_validation_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, *args: Any
    ) -> None:
        self._collect("val", batch)

    def on_test_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, *args: Any
    ) -> None:
        self._collect(_test_split(trainer), batch)

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        self._gather("train")

    def on_validation_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        self._gather("val")

    def on_test_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        self._gather(_test_split(trainer))

    def _collect(self, split: str, batch: Any) -> None:
        self._used[split] = self._used.get(split, 0) + len(batch["id"])
        self.reasons |= {(split, example.id): example.reason for example in batch["left_out"]}

    def _gather(self, split: str) -> None:
        """Takes over what the other processes found; all of them call this."""
        parts: list[Any] = [(self.reasons, self._used.pop(split, None))]
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            part, parts = parts[0], [None] * torch.distributed.get_world_size()
            torch.distributed.all_gather_object(parts, part)
        self.reasons = {key: reason for reasons, _ in parts for key, reason in reasons.items()}
        seen = [used for _, used in parts if used is not None]  # nothing was, where a run goes on at an epoch's end
        if seen and not any(seen):
            first = next(entry["reason"] for entry in self.entries if entry["split"] == split)
            raise UserError(f"None of the images of {split} can be used. The first: {first}")


def _test_split(trainer: Trainer) -> str:
    return trainer.datamodule.test_split  # type: ignore[attr-defined]
