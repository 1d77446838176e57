"""Direct preference optimisation on one rank."""

from __future__ import annotations

from typing import Any, ClassVar

from aloe.training.trainee import Numbers, Splits, Trainee, replies_of  # isort: skip  (prepares)

import ray
import torch
from openrlhf.models import DPOLoss
from openrlhf.trainer.dpo_trainer import DPOTrainer

from aloe.config import DpoConfig
from aloe.training.accelerator import WORKER_ENV, precision
from aloe.training.accuracy import pair_statistics, wilson_interval
from aloe.training.asked_reference import PlacedReference, PrecomputedReference
from aloe.training.checkpoint import fingerprint
from aloe.training.data import Row, Rows, read_pairs, sample
from aloe.training.datasets import PairRows
from aloe.training.hooks import AfterStep, Hooked
from aloe.training.protocol import Advance
from aloe.training.reference import read_reference
from aloe.training.step_log import StepLog
from aloe.training.worker import reply_sums


class HookedDPOTrainer(Hooked, DPOTrainer):  # type: ignore[misc]
    """OpenRLHF's trainer with our hook and an `AskedReference`."""

    names: ClassVar = {"loss_mean": "loss", "acc_mean": "accuracy_reward"}

    def __init__(self, after_step: AfterStep, log: StepLog, **arguments: Any) -> None:
        super().__init__(after_step, **arguments)
        self.log = log
        self.lengths = torch.ones(2, 1)
        self.loss_fn.register_forward_hook(self._look)
        log.watch(self.ref_model, "reference")

    def _look(self, _: Any, sums: tuple[torch.Tensor, ...], output: tuple[Any, ...]) -> None:
        _, preferred, rejected = output
        policy, reference = (torch.stack(pair).detach() for pair in (sums[:2], sums[2:]))
        per_token = policy / self.lengths
        self.log.add(
            margin=(preferred - rejected).mean().item(),
            reward_preferred=preferred.mean().item(),
            reward_rejected=rejected.mean().item(),
            logprob_preferred=per_token[0].mean().item(),
            logprob_rejected=per_token[1].mean().item(),
            kl=((policy - reference) / self.lengths).mean().item(),
            length_preferred=self.lengths[0].mean().item(),
            length_rejected=self.lengths[1].mean().item(),
        )

    def save_logs_and_checkpoints(self, *arguments: Any, **options: Any) -> None:
        """OpenRLHF's hook after each optimizer step."""
        super().save_logs_and_checkpoints(*arguments, **options)
        self.ref_model.end_step()

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
        tokens = torch.stack([(mask > 0).sum(-1) for mask in (c_mask, r_mask)])
        self.lengths = (tokens - torch.tensor(prompt_id_lens, device=tokens.device)).float()
        found = super().concatenated_forward(
            model, chosen_ids, c_mask, reject_ids, r_mask, prompt_id_lens
        )
        self.log.add(nll=found[3].item())
        return found


@ray.remote(concurrency_groups={"poll": 1}, runtime_env=WORKER_ENV)  # type: ignore[call-overload]
class DpoWorker(Trainee):
    """One rank; its method ``train`` does all of the work."""

    def read_rows(self) -> Rows:
        return read_pairs(self.job.store, self.chat, self.job.options.max_len)

    def dataset(self, rows: list[Row]) -> PairRows:
        return PairRows(rows, self.tokenizer)

    def load_model(self, ds_config: dict[str, Any]) -> Any:
        return self.load_actor(ds_config)

    def begin(self, rows: Rows, samples: int) -> None:
        """Meet the reference, and hear what it gives the rows that are measured."""
        job, options = self.job, self.job.options
        assert isinstance(options, DpoConfig) and job.reference is not None
        self.loss_fn = DPOLoss(options.beta, options.label_smoothing, options.ipo)
        if options.reference == "precomputed":
            name = self.common(fingerprint(self.checkpoint, precision()) if not self._rank else "")
            known = read_reference(job.reference, name)
            self.reference: Any = PrecomputedReference(rows.splits, known)
        else:
            batches = self.sampler.batches(samples, options.epochs)
            train, first = rows.splits["train"], self._rank == 0
            self.reference = PlacedReference(
                train, job.reference_ranks, batches, self.common, first
            )
        numbers = {
            "train": sample(len(rows.splits["train"]), job.seed),
            "validation": list(range(len(rows.splits["validation"]))),
        }
        self.start = {split: self.reference.sums(split, numbers[split]) for split in numbers}

    def trainer(self, after_step: AfterStep, arguments: dict[str, Any]) -> Any:
        beta = self.loss_fn.beta
        return HookedDPOTrainer(
            after_step, self.log, ref_model=self.reference, beta=beta, **arguments
        )

    def measure(self, step: int, splits: Splits, tell: bool) -> Numbers:
        """`pair_statistics` of each split."""
        found = {}
        for split, rows in splits.items():
            replies, reference = replies_of(rows), self.start[split]
            if step:
                policy = self.score(replies, reply_sums(self.model), tell).view(-1, 2)
            else:  # the policy still is its reference
                policy = reference
                self.tell(Advance(len(replies)))
            lengths = torch.tensor([[encoded.reply_length for encoded in row] for row in rows])
            found[split] = pair_statistics(
                policy, reference, lengths, self.turns[split], self.loss_fn
            )
            if not step:  # every margin is 0: neither right nor wrong
                del found[split]["accuracy_reward"]
        return found

    def results(self, before: Numbers, after: Numbers, held_out: int) -> dict[str, Any]:
        found: dict[str, Any] = {"pairs_validation": held_out}
        for when, numbers in (("before", before), ("after", after)):
            values = numbers["validation"]
            found[f"loss_{when}"] = values["loss"]
            found[f"accuracy_{when}"] = values["accuracy_logprob"]
            interval = wilson_interval(values["accuracy_logprob"], held_out)
            found[f"accuracy_interval_{when}"] = interval
            found[f"train_loss_{when}"] = numbers["train"]["loss"]
        values = after["validation"]
        found["reward_accuracy_after"] = values["accuracy_reward"]
        found["reward_accuracy_interval_after"] = wilson_interval(
            values["accuracy_reward"], held_out
        )
        found["reward_margin_after"] = values["margin"]
        found["train_accuracy_after"] = after["train"]["accuracy_logprob"]
        found["pairs_train"] = len(self.batches.dataset)
        return found
