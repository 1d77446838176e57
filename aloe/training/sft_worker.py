"""Supervised fine-tuning on one rank."""

from __future__ import annotations

from typing import Any

from aloe.training.worker import Worker  # isort: skip  (first: it prepares the process)

import ray
from openrlhf.trainer.sft_trainer import SFTTrainer

from aloe.training.accelerator import WORKER_ENV
from aloe.training.data import Row, read_sft, sample
from aloe.training.datasets import SftRows
from aloe.training.protocol import Begin, Job, Measured, Outcome
from aloe.training.step_log import StepLog


class LoggedSFTTrainer(SFTTrainer):  # type: ignore[misc]
    """OpenRLHF's trainer with its numbers sent to a `StepLog`."""

    def __init__(self, log: StepLog, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.log = log

    def save_logs_and_checkpoints(
        self, args: Any, global_step: int, step_bar: Any, logs_dict: Any, client_states: Any
    ) -> None:
        """OpenRLHF's hook after each optimizer step."""
        self.log.step(global_step, {"loss": logs_dict["loss_mean"]})


@ray.remote(concurrency_groups={"poll": 1}, runtime_env=WORKER_ENV)  # type: ignore[call-overload]
class SftWorker(Worker):
    """One rank; its method ``train`` does all of the work."""

    def train(self, job: Job) -> Outcome:
        """Fine-tune on the preferred replies; evaluate before and after; save.

        Raises:
            UserError: see `Worker.join`, `read_sft` and `Worker.load_policy`.
        """
        self.join(job)
        rows = read_sft(job.store, self.tokenizer, job.options.max_len)
        train, validation = rows.splits["train"], rows.splits["validation"]
        self.load_policy(SftRows(train, self.tokenizer))
        splits = {
            "train": [train[i] for i in sample(len(train), job.seed)],
            "validation": validation,
        }
        before = self.measure("before", 0, splits)
        self.fit(LoggedSFTTrainer(self.log, **self.trainer_arguments()))
        after = self.measure("after", self.steps, splits)
        self.save()
        return self.outcome({**before, **after, **self.step_losses()}, rows)

    def measure(self, when: str, step: int, splits: dict[str, list[Row]]) -> dict[str, float]:
        """Mean negative log-prob per token of the replies, for each split."""
        self.tell(Begin(f"sft: {when} training", sum(map(len, splits.values()))))
        losses = {}
        for split, rows in splits.items():
            replies = [encoded for row in rows for encoded in row]
            tokens = sum(encoded.reply_length for encoded in replies)
            losses[split] = -self.score(replies).sum().item() / tokens
            self.tell(Measured(split, step, {"loss": losses[split]}, whole=True))
        return {f"loss_{when}": losses["validation"], f"train_loss_{when}": losses["train"]}
