"""One training process: joins the others, loads the policy, scores rows, saves the checkpoint.

Importing this module prepares the process for OpenRLHF.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from aloe.training.accelerator import check_compiler, has_flash_attention, prepare

prepare()

import ray  # noqa: E402  (nothing of OpenRLHF may be imported before prepare)
import torch  # noqa: E402
from openrlhf.models import Actor  # noqa: E402
from openrlhf.trainer.ray.launcher import BaseDistributedActor  # noqa: E402
from openrlhf.utils import get_strategy  # noqa: E402

from aloe.config import SftConfig  # noqa: E402
from aloe.engines.embedded import resolve_checkpoint  # noqa: E402
from aloe.runtime import cores, has_gpu  # noqa: E402
from aloe.training.checkpoint import new_checkpoint, refuse_remote_code  # noqa: E402
from aloe.training.compile import build_cpu_ops  # noqa: E402
from aloe.training.data import Encoded, Rows  # noqa: E402
from aloe.training.datasets import PairRows, SftRows  # noqa: E402
from aloe.training.options import (  # noqa: E402
    check_batches,
    openrlhf_arguments,
    optimizer_settings,
)
from aloe.training.protocol import Advance, Begin, Event, Job, Note, Outcome  # noqa: E402
from aloe.training.step_log import StepLog  # noqa: E402


class Worker(BaseDistributedActor):  # type: ignore[misc]
    """What SFT and DPO share. Subclasses are Ray actors with a method ``train``."""

    def __init__(
        self, world_size: int, rank: int, master_addr: str | None, master_port: int | None
    ) -> None:
        super().__init__(world_size, rank, master_addr, master_port)
        self._events: list[Event] = []
        if not has_gpu():  # Ray allows one thread per reserved CPU
            torch.set_num_threads(max(1, len(cores()) // world_size))

    @ray.method(concurrency_group="poll")
    def poll(self, seen: int) -> list[Event]:
        """Events after the first ``seen``; answered while `train` runs."""
        return self._events[seen:]

    def tell(self, event: Event) -> None:
        if self._rank == 0:
            self._events.append(event)

    def join(self, job: Job) -> None:
        """Meet the other ranks, find the checkpoint on this machine, load its tokenizer.

        Raises:
            UserError: no compiler, or a checkpoint that is missing or brings untrusted code.
        """
        from transformers import AutoTokenizer

        check_compiler()
        self.job = job
        self.checkpoint = resolve_checkpoint(job.checkpoint)
        refuse_remote_code(self.checkpoint, job.trust_remote_code)
        if not has_gpu():
            build_cpu_ops(lambda text: self.tell(Note(text)))
        if isinstance(job.options, SftConfig) and job.options.packing and not has_flash_attention():
            self.tell(Note("training.sft.packing is off: there is no flash attention"))
        self.strategy = get_strategy(openrlhf_arguments(job.options, job.seed))
        self.strategy.setup_distributed()
        self.tokenizer = AutoTokenizer.from_pretrained(
            self.checkpoint, trust_remote_code=job.trust_remote_code
        )
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token

    def load_policy(self, rows: SftRows | PairRows) -> None:
        """Load the model and its optimizer, and lay out the training batches.

        Raises:
            UserError: there are fewer rows than one optimizer step takes.
        """
        options, strategy = self.job.options, self.strategy
        check_batches(f"training.{self.job.kind}", options, len(rows))
        self.batches = strategy.setup_dataloader(
            rows, options.micro_batch_size, pin_memory=has_gpu(), collate_fn=rows.collate_fn
        )
        self.steps = len(self.batches) * options.epochs // strategy.accumulated_gradient
        policy = Actor(
            self.checkpoint,
            attn_implementation=strategy.args.ds.attn_implementation,
            param_dtype=strategy.args.ds.param_dtype,
            ds_config=strategy.get_ds_train_config(),
            packing_samples=strategy.args.ds.packing_samples,
        )
        policy.model.config.pad_token_id = self.tokenizer.pad_token_id
        if options.gradient_checkpointing:
            policy.gradient_checkpointing_enable()
        self.policy, self.optimizer, self.scheduler = strategy.prepare(
            (policy, optimizer_settings(options, self.steps))
        )
        self.log = StepLog(strategy, self.policy, self.scheduler, self.tell)

    def trainer_arguments(self) -> dict[str, Any]:
        """What OpenRLHF's SFT and DPO trainers are both made of."""
        return {
            "model": self.policy,
            "strategy": self.strategy,
            "optim": self.optimizer,
            "scheduler": self.scheduler,
            "tokenizer": self.tokenizer,
            "train_dataloader": self.batches,
            "eval_dataloader": None,
            "max_norm": self.job.options.max_norm,
            "max_epochs": self.job.options.epochs,
        }

    def fit(self, trainer: Any) -> None:
        """Let OpenRLHF's trainer take all optimizer steps."""
        per_epoch = max(1, len(self.batches) // self.strategy.accumulated_gradient)
        self.tell(Begin(f"{self.job.kind}: training", self.steps))
        self.log.start()
        trainer.fit(self.strategy.args, num_update_steps_per_epoch=per_epoch)

    @torch.no_grad()
    def score(self, sequences: Sequence[Encoded]) -> torch.Tensor:
        """Summed log-prob of each reply under the policy, float64 [sequences], on every rank.

        Each rank computes its share. All make the same number of forward passes, since ZeRO-3
        gathers parameters in each.
        """
        rank, world, size = self._rank, self._world_size, self.job.options.micro_batch_size
        device = torch.cuda.current_device()
        sums = torch.zeros(len(sequences), dtype=torch.float64, device=device)
        self.policy.eval()
        for start in range(0, len(sequences), world * size):
            mine = range(start + rank, min(start + world * size, len(sequences)), world)
            batch = [sequences[i] for i in mine] or [sequences[0]]
            padded = _pad(batch, self.tokenizer.pad_token_id)
            ids, mask, reply = (part.to(device) for part in padded)
            logps = self.policy(ids, attention_mask=mask, return_logprobs=True)
            if mine:
                sums[list(mine)] = (logps * reply[:, 1:]).sum(-1).double()
            self.tell(Advance(min(world * size, len(sequences) - start)))
        torch.distributed.all_reduce(sums)
        return sums.cpu()

    def step_losses(self) -> dict[str, float]:
        """Training loss of the first and of the last step's batch."""
        return {"train_loss_first": self.log.losses[0], "train_loss_last": self.log.losses[-1]}

    def outcome(self, results: dict[str, Any], rows: Rows) -> Outcome:
        """What the stage's manifest keeps, with what became of the rows."""
        options = self.job.options
        unused = len(rows.splits["train"]) * options.epochs - self.steps * options.batch_size
        remarks = rows.remarks()
        if unused:
            remarks.append(f"{unused} training rows unused: they do not fill a batch")
        for remark in remarks:
            self.tell(Note(f"{self.job.kind}: {remark}"))
        counts = {"steps": self.steps, "tokens": self.log.total_tokens, "rows_unused": unused}
        return Outcome(results, {**rows.counts, **counts})

    def save(self) -> None:
        """Write the policy as a Hugging Face folder to ``training/<kind>/checkpoint``."""
        first = self._rank == 0
        folder = f"training/{self.job.kind}/checkpoint"
        self.strategy._unwrap_model(self.policy).config.use_cache = True  # Actor switched it off
        with new_checkpoint(self.job.store, folder) if first else nullcontext(Path()) as target:
            self.strategy.save_model(self.policy, self.tokenizer, str(target))


def _pad(batch: Sequence[Encoded], pad: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Ids, attention mask and reply mask, each [sequences, longest]."""
    longest = max(len(sequence.ids) for sequence in batch)
    ids = torch.full((len(batch), longest), pad)
    mask = torch.zeros_like(ids)
    reply = torch.zeros(ids.shape)
    for i, sequence in enumerate(batch):
        ids[i, : len(sequence.ids)] = sequence.tensor()
        mask[i, : len(sequence.ids)] = 1
        reply[i, sequence.prompt_length : len(sequence.ids)] = 1
    return ids, mask, reply
