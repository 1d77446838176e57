"""One training process: joins the others, loads its model, scores rows, keeps states.

Importing this module prepares the process for OpenRLHF.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

from aloe.training.accelerator import check_compiler, has_flash_attention, prepare

prepare()

import ray  # noqa: E402  (nothing of OpenRLHF may be imported before prepare)
import torch  # noqa: E402
from openrlhf.models import Actor  # noqa: E402
from openrlhf.trainer.ray.launcher import BaseDistributedActor  # noqa: E402
from openrlhf.utils import get_strategy  # noqa: E402

from aloe.chat import ChatFormat  # noqa: E402
from aloe.config import SftConfig  # noqa: E402
from aloe.engines.embedded import resolve_checkpoint  # noqa: E402
from aloe.machine import has_gpu, usable_cores  # noqa: E402
from aloe.training.checkpoint import refuse_remote_code  # noqa: E402
from aloe.training.compile import build_cpu_ops  # noqa: E402
from aloe.training.data import REPLY, Encoded  # noqa: E402
from aloe.training.options import openrlhf_arguments  # noqa: E402
from aloe.training.plain_actor import PlainActor  # noqa: E402
from aloe.training.protocol import Advance, Event, Job, Note  # noqa: E402
from aloe.training.tree_actor import TreeActor, why_not  # noqa: E402

Score = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Takes padded ids and masks, [rows, tokens]; returns a number per row, float [rows]."""


class Worker(BaseDistributedActor):  # type: ignore[misc]
    """What all training processes share. Subclasses are Ray actors."""

    actors: ClassVar[tuple[type[Actor], type[Actor]]] = (TreeActor, PlainActor)
    """The policy's class with rows packed as trees, and without."""

    def __init__(
        self, world_size: int, rank: int, master_addr: str | None, master_port: int | None
    ) -> None:
        super().__init__(world_size, rank, master_addr, master_port)
        self._events: list[Event] = []

    @ray.method(concurrency_group="poll")
    def poll(self, seen: int) -> list[Event]:
        """Events after the first ``seen``; answered while other methods run."""
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
        if not has_gpu():  # Ray allows one thread per reserved CPU
            torch.set_num_threads(max(1, usable_cores() // job.processes))
        if job.master:
            os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = map(str, job.master)
        self.job = job
        self.checkpoint = resolve_checkpoint(job.checkpoint)
        refuse_remote_code(self.checkpoint, job.trust_remote_code)
        if not has_gpu():
            build_cpu_ops(lambda text: self.tell(Note(text)))
        self.packs_trees = self._choose_packing()
        self.strategy = get_strategy(self.arguments())
        self.strategy.setup_distributed()
        self.tokenizer = AutoTokenizer.from_pretrained(
            self.checkpoint, trust_remote_code=job.trust_remote_code
        )
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        if job.chat.template:  # what is saved can be talked with
            self.tokenizer.chat_template = job.chat.template
        self.chat = ChatFormat(self.tokenizer, job.chat, "training.base")
        if self.packs_trees and not self.chat.grows:
            self.tell(
                Note(
                    f"training.{job.kind}.tree_packing: with this chat template turns do not "
                    "extend each other; only what they share is computed once"
                )
            )

    def arguments(self) -> SimpleNamespace:
        """What OpenRLHF reads."""
        return openrlhf_arguments(self.job.options, self.job.seed, self.packs_trees)

    def _choose_packing(self) -> bool:
        """Whether rows are packed as trees; tells what is not possible here."""
        from transformers import AutoConfig

        options, key = self.job.options, f"training.{self.job.kind}"
        if options.tree_packing:
            reason = why_not(
                AutoConfig.from_pretrained(
                    self.checkpoint, trust_remote_code=self.job.trust_remote_code
                )
            )
            if reason is None:
                return True
            self.tell(Note(f"{key}.tree_packing is off for this model: {reason}"))
        if isinstance(options, SftConfig) and options.packing and not has_flash_attention():
            self.tell(Note(f"{key}.packing is off: there is no flash attention"))
        return False

    def load_actor(self, ds_config: dict[str, Any], **more: Any) -> Actor:
        """A causal language model, to be handed to `DeepspeedStrategy.prepare`.

        Args:
            ds_config: DeepSpeed's, for training or for evaluation; ZeRO-3 reads it on loading.
            more: options of `openrlhf.models.Actor`.
        """
        arguments = self.strategy.args.ds
        packed, plain = self.actors
        actor = (packed if self.packs_trees else plain)(
            self.checkpoint,
            attn_implementation=arguments.attn_implementation,
            param_dtype=arguments.param_dtype,
            ds_config=ds_config,
            packing_samples=arguments.packing_samples,
            **more,
        )
        actor.model.config.pad_token_id = self.tokenizer.pad_token_id
        return actor

    @torch.no_grad()
    def score(self, sequences: Sequence[Encoded], score: Score, tell: bool) -> torch.Tensor:
        """A number for each sequence, float64 [sequences], on every rank.

        Each rank computes its share. All make the same number of forward passes, since ZeRO-3
        gathers parameters in each.

        Args:
            tell: whether this is a phase whose progress is shown.
        """
        rank, world, size = self._rank, self._world_size, 2 * self.job.options.micro_batch_size
        device = torch.cuda.current_device()
        found = torch.zeros(len(sequences), dtype=torch.float64, device=device)
        for start in range(0, len(sequences), world * size):
            # Neighbours together: they are of one tree.
            mine = slice(start + rank * size, start + (rank + 1) * size)
            batch = sequences[mine] or sequences[:1]
            ids, mask = (part.to(device) for part in pad(batch, self.tokenizer.pad_token_id))
            values = score(ids, mask)
            if sequences[mine]:
                found[mine] = values.double()
            if tell:
                self.tell(Advance(min(world * size, len(sequences) - start)))
        torch.distributed.all_reduce(found)
        return found.cpu()

    def common(self, value: Any) -> Any:
        """The first rank's value, on all ranks."""
        values = [value]
        torch.distributed.broadcast_object_list(values)
        return values[0]

    def save_to(self, model: Any, folder: Any) -> None:
        """Write a Hugging Face folder; called by all ranks.

        Args:
            folder: context manager that gives the target folder; entered by the first rank.
        """
        config = self.strategy._unwrap_model(model).config
        config.use_cache = True  # OpenRLHF switched it off
        with folder if self._rank == 0 else nullcontext(Path()) as target:
            self.strategy.save_model(model, self.tokenizer, str(target))
        config.use_cache = False


def reply_sums(actor: Actor) -> Score:
    """Scores rows by the summed log-prob of their replies."""

    def score(ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        log_probs = actor(ids, attention_mask=mask, return_logprobs=True)
        return (log_probs * (mask[:, 1:] == REPLY)).sum(-1)

    return score


def pad(batch: Sequence[Encoded], token: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and attention masks (`Encoded.mask`), int64 [sequences, longest], padded on the right."""
    longest = max(len(sequence.ids) for sequence in batch)
    ids = torch.full((len(batch), longest), token)
    mask = torch.zeros_like(ids)
    for i, sequence in enumerate(batch):
        ids[i, : len(sequence.ids)] = sequence.tensor()
        mask[i, : len(sequence.ids)] = sequence.mask()
    return ids, mask
