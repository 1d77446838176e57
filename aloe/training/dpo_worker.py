"""Direct preference optimisation on one rank."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

from aloe.training.worker import Worker  # isort: skip  (first: it prepares the process)

import ray
import torch
from openrlhf.models import DPOLoss
from openrlhf.trainer.dpo_trainer import DPOTrainer

from aloe.config import DpoConfig
from aloe.training.accelerator import WORKER_ENV
from aloe.training.accuracy import pair_statistics, wilson_interval
from aloe.training.data import Row, read_pairs, sample
from aloe.training.datasets import PairRows
from aloe.training.protocol import Begin, Job, Measured, Outcome
from aloe.training.step_log import StepLog


class StoredReference(torch.nn.Module):
    """The frozen reference, as the log-probs that it gave each reply.

    It never changes, so one pass over the pairs is enough and no second model stays in memory.
    """

    def __init__(self, rows: Iterable[Row], sums: torch.Tensor) -> None:
        """``sums``: summed log-probs, float [rows, 2], preferred first."""
        super().__init__()
        self._sums = {
            _key(encoded.tensor()): value
            for row, values in zip(rows, sums.tolist(), strict=True)
            for encoded, value in zip(row, values, strict=True)
        }

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Summed log-probs, float32 [batch], of the padded sequences ``ids`` [batch, tokens]."""
        keys = [_key(row[keep.bool()]) for row, keep in zip(ids, mask, strict=True)]
        return torch.tensor(
            [self._sums[key] for key in keys], dtype=torch.float32, device=ids.device
        )


def _key(ids: torch.Tensor) -> bytes:
    return hashlib.blake2b(ids.int().cpu().numpy().tobytes(), digest_size=16).digest()


class LoggedDPOTrainer(DPOTrainer):  # type: ignore[misc]
    """OpenRLHF's trainer with a `StoredReference`, its numbers sent to a `StepLog`."""

    def __init__(self, log: StepLog, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.log = log
        self.margins: list[float] = []
        self.loss_fn.register_forward_hook(self._keep_margin)

    def _keep_margin(self, _: Any, __: Any, output: tuple[torch.Tensor, ...]) -> None:
        self.margins.append((output[1] - output[2]).mean().item())

    def concatenated_forward(
        self,
        model: torch.nn.Module,
        chosen_ids: torch.Tensor,
        c_mask: torch.Tensor,
        reject_ids: torch.Tensor,
        r_mask: torch.Tensor,
        prompt_id_lens: list[int],
    ) -> tuple[Any, ...]:
        """Summed log-probs of both replies, then two losses that a reference does not have."""
        if model is self.ref_model:
            return model(chosen_ids, c_mask), model(reject_ids, r_mask), None, None
        return super().concatenated_forward(
            model, chosen_ids, c_mask, reject_ids, r_mask, prompt_id_lens
        )

    def save_logs_and_checkpoints(
        self, args: Any, global_step: int, step_bar: Any, logs_dict: Any, client_states: Any
    ) -> None:
        """OpenRLHF's hook after each optimizer step."""
        margin = sum(self.margins) / len(self.margins)
        self.margins.clear()
        loss, accuracy = logs_dict["loss_mean"], logs_dict["acc_mean"]
        self.log.step(global_step, {"loss": loss, "accuracy_reward": accuracy, "margin": margin})


@ray.remote(concurrency_groups={"poll": 1}, runtime_env=WORKER_ENV)  # type: ignore[call-overload]
class DpoWorker(Worker):
    """One rank; its method ``train`` does all of the work."""

    def train(self, job: Job) -> Outcome:
        """Optimise on preference pairs; evaluate before and after; save.

        Raises:
            UserError: see `Worker.join`, `read_pairs` and `Worker.load_policy`.
        """
        options = job.options
        assert isinstance(options, DpoConfig)
        self.loss_fn = DPOLoss(options.beta, options.label_smoothing)
        self.join(job)
        rows = read_pairs(job.store, self.tokenizer, options.max_len)
        train, validation = rows.splits["train"], rows.splits["validation"]
        self.load_policy(PairRows(train, self.tokenizer))

        # The policy still is the reference: what it gives now is what the reference always gives.
        self.tell(Begin("dpo: before training", 2 * (len(train) + len(validation))))
        reference = self.scores(train)
        chosen = sample(len(train), job.seed)
        pairs = {"train": [train[i] for i in chosen], "validation": validation}
        start = {"train": reference[chosen], "validation": self.scores(validation)}
        before = self.measure(0, pairs, start, start)

        stored = StoredReference(train, reference)
        arguments = self.trainer_arguments()
        self.fit(LoggedDPOTrainer(self.log, ref_model=stored, beta=options.beta, **arguments))

        self.tell(Begin("dpo: after training", 2 * sum(map(len, pairs.values()))))
        end = {split: self.scores(pairs[split]) for split in pairs}
        after = self.measure(self.steps, pairs, end, start)
        self.save()
        results = {**_results(before, after, len(validation)), "pairs_train": len(train)}
        return self.outcome({**results, **self.step_losses()}, rows)

    def scores(self, pairs: list[Row]) -> torch.Tensor:
        """Summed log-probs under the policy, float64 [pairs, 2], preferred first."""
        return self.score([encoded for pair in pairs for encoded in pair]).view(-1, 2)

    def measure(
        self,
        step: int,
        pairs: dict[str, list[Row]],
        policy: dict[str, torch.Tensor],
        reference: dict[str, torch.Tensor],
    ) -> dict[str, dict[str, float]]:
        """`pair_statistics` of each split after ``step`` optimizer steps."""
        found = {}
        for split, rows in pairs.items():
            lengths = torch.tensor([[encoded.reply_length for encoded in row] for row in rows])
            found[split] = pair_statistics(policy[split], reference[split], lengths, self.loss_fn)
            if step == 0:  # every margin is 0: neither right nor wrong
                del found[split]["accuracy_reward"]
            self.tell(Measured(split, step, found[split], whole=True))
        return found


def _results(
    before: dict[str, dict[str, float]], after: dict[str, dict[str, float]], pairs: int
) -> dict[str, Any]:
    held_out = {"before": before["validation"], "after": after["validation"]}
    results: dict[str, Any] = {"pairs_validation": pairs}
    for when, values in held_out.items():
        results[f"loss_{when}"] = values["loss"]
        results[f"accuracy_{when}"] = values["accuracy_logprob"]
        results[f"accuracy_interval_{when}"] = wilson_interval(values["accuracy_logprob"], pairs)
    reward_accuracy = held_out["after"]["accuracy_reward"]
    return {
        **results,
        "train_loss_before": before["train"]["loss"],
        "train_loss_after": after["train"]["loss"],
        "reward_accuracy_after": reward_accuracy,
        "reward_accuracy_interval_after": wilson_interval(reward_accuracy, pairs),
        "reward_margin_after": held_out["after"]["margin"],
    }
