"""The frozen reference on one rank, in a placement of its own."""

from __future__ import annotations

from aloe.training.worker import Worker, reply_sums  # isort: skip  (first: it prepares the process)

import time

import ray
import torch

from aloe.training.accelerator import WORKER_ENV, precision
from aloe.training.checkpoint import fingerprint
from aloe.training.data import Row, Rows, read_pairs
from aloe.training.protocol import Begin, Job, Note, Outcome
from aloe.training.reference import read_reference, tokens_of, write_reference

CHUNK = 4096
"""Pairs after which what is known is written down."""


@ray.remote(concurrency_groups={"poll": 1}, runtime_env=WORKER_ENV)  # type: ignore[call-overload]
class ReferenceWorker(Worker):
    """One rank. `precompute` answers once for all pairs; `load` and `answer` batch by batch."""

    def precompute(self, job: Job) -> Outcome:
        """Keep log-probs of all pairs that are not kept yet.

        Raises:
            UserError: see `Worker.join` and `read_pairs`.
        """
        assert job.reference is not None
        self.join(job)
        name = self.common(fingerprint(self.checkpoint, precision()) if self._rank == 0 else "")
        known = read_reference(job.reference, name)
        rows = read_pairs(job.store, self.chat, job.options.max_len)
        fresh = [
            (row_id, pair)
            for split, pairs in rows.splits.items()
            for row_id, pair in zip(rows.row_ids[split], pairs, strict=True)
            if tokens_of(pair) not in known
        ]
        total = sum(map(len, rows.splits.values()))
        if len(fresh) < total:
            found = f"{total - len(fresh)} of {total} pairs"
            self.tell(Note(f"{job.kind}: the reference's log-probs of {found} are kept already"))
        if fresh:
            self._load_model()
            self.tell(Begin(f"{job.kind}: reference", 2 * len(fresh)))
        began = time.monotonic()
        for start in range(0, len(fresh), CHUNK):
            ids, pairs = zip(*fresh[start : start + CHUNK], strict=True)
            sums = self._sums(pairs, tell=True)
            if self._rank == 0:
                values = [(one, other) for one, other in sums.tolist()]
                write_reference(job.reference, name, ids, pairs, values)
        results = {"reference": name, "reference_seconds": time.monotonic() - began}
        return Outcome(results, {"reference_pairs": len(fresh)})

    def load(self, job: Job) -> None:
        """Get ready for `answer`.

        Raises:
            UserError: see `Worker.join` and `read_pairs`.
        """
        self.join(job)
        self._rows: Rows = read_pairs(job.store, self.chat, job.options.max_len)
        self._load_model()

    def answer(self, split: str, numbers: list[int]) -> torch.Tensor:
        """Summed log-probs of pairs by their numbers in a split, float64 [pairs, 2]."""
        pairs = self._rows.splits[split]
        return self._sums([pairs[number] for number in numbers], tell=False)

    def _load_model(self) -> None:
        actor = self.load_actor(self.strategy.get_ds_eval_config(offload=False))
        self._model = self.strategy.prepare(actor)
        self._model.eval()

    def _sums(self, pairs: tuple[Row, ...] | list[Row], tell: bool) -> torch.Tensor:
        replies = [encoded for pair in pairs for encoded in pair]
        return self.score(replies, reply_sums(self._model), tell).view(-1, 2)
