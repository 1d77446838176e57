"""Supervised fine-tuning on one rank."""

from __future__ import annotations

from typing import Any

from aloe.training.trainee import Numbers, Splits, Trainee, replies_of  # isort: skip  (prepares)

import ray
from openrlhf.trainer.sft_trainer import SFTTrainer

from aloe.training.accelerator import WORKER_ENV
from aloe.training.data import Row, Rows, read_sft
from aloe.training.datasets import SftRows
from aloe.training.hooks import AfterStep, Hooked
from aloe.training.worker import reply_sums


class HookedSFTTrainer(Hooked, SFTTrainer):  # type: ignore[misc]
    """OpenRLHF's trainer with our hook."""


@ray.remote(concurrency_groups={"poll": 1}, runtime_env=WORKER_ENV)  # type: ignore[call-overload]
class SftWorker(Trainee):
    """One rank; its method ``train`` does all of the work."""

    def read_rows(self) -> Rows:
        return read_sft(self.job.store, self.chat, self.job.options.max_len)

    def dataset(self, rows: list[Row]) -> SftRows:
        return SftRows(rows, self.tokenizer)

    def load_model(self, ds_config: dict[str, Any]) -> Any:
        return self.load_actor(ds_config)

    def trainer(self, after_step: AfterStep, arguments: dict[str, Any]) -> Any:
        return HookedSFTTrainer(after_step, **arguments)

    def measure(self, step: int, splits: Splits, tell: bool) -> Numbers:
        """Mean negative log-prob per token of the replies."""
        found = {}
        for split, rows in splits.items():
            replies = replies_of(rows)
            tokens = sum(encoded.reply_length for encoded in replies)
            sums = self.score(replies, reply_sums(self.model), tell)
            found[split] = {"loss": -sums.sum().item() / tokens}
        return found

    def results(self, before: Numbers, after: Numbers, held_out: int) -> dict[str, Any]:
        found = {}
        for when, numbers in (("before", before), ("after", after)):
            found[f"loss_{when}"] = numbers["validation"]["loss"]
            found[f"train_loss_{when}"] = numbers["train"]["loss"]
        return found
