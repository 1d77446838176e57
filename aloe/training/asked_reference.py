"""The frozen reference as OpenRLHF's DPO trainer calls it: a model whose answers are fetched."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import ray
import torch

from aloe.training.data import Row
from aloe.training.reference import Sums, tokens_of


class AskedReference(torch.nn.Module):
    """Summed log-probs by the tokens of a reply; `learn` tells them, `fetch` is asked for more."""

    def __init__(self) -> None:
        super().__init__()
        self._known: dict[bytes, float] = {}

    def sums(self, split: str, numbers: Sequence[int]) -> torch.Tensor:
        """Log-probs of pairs by their numbers in a split, float64 [pairs, 2], preferred first."""
        raise NotImplementedError

    def fetch(self) -> None:
        """Learn the answers to the batch that comes next."""
        raise KeyError("the reference was never asked about this reply")

    def end_step(self) -> None:
        """Called by all ranks after each optimizer step."""

    def learn(self, pairs: Sequence[Row], sums: torch.Tensor) -> None:
        for pair, values in zip(pairs, sums.tolist(), strict=True):
            for encoded, value in zip(pair, values, strict=True):
                self._known[_key(encoded.tensor())] = value

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Summed log-probs, float32 [batch], of the padded sequences ``ids`` [batch, tokens]."""
        keys = [_key(row[keep > 0]) for row, keep in zip(ids, mask, strict=True)]
        if any(key not in self._known for key in keys):
            self.fetch()
        sums = [self._known[key] for key in keys]
        return torch.tensor(sums, dtype=torch.float32, device=ids.device)


class PrecomputedReference(AskedReference):
    """All answers are there before the first step (`aloe.training.reference`)."""

    def __init__(self, splits: Mapping[str, Sequence[Row]], known: Mapping[str, Sums]) -> None:
        super().__init__()
        self._splits, self._by_pair = splits, known
        train = splits["train"]
        self.learn(train, self.sums("train", range(len(train))))

    def sums(self, split: str, numbers: Sequence[int]) -> torch.Tensor:
        pairs = self._splits[split]
        found = [self._by_pair[tokens_of(pairs[number])] for number in numbers]
        return torch.tensor(found, dtype=torch.float64).view(-1, 2)


class PlacedReference(AskedReference):
    """Asks actors in another placement, one batch ahead: they compute while the policy trains."""

    def __init__(
        self,
        pairs: Sequence[Row],
        ranks: Sequence[Any],
        batches: Iterator[list[int]],
        common: Callable[[Any], Any],
        first: bool,
    ) -> None:
        """One rank's view of it; all ranks call the same methods in the same order.

        Args:
            pairs: training pairs.
            ranks: Ray actors of `aloe.training.reference_worker`.
            batches: numbers of the training pairs of each optimizer step to come.
            common: gives the first rank's value to all.
            first: whether this is the first rank, the only one that asks. The reference's ranks
                must hear all questions in the same order.
        """
        super().__init__()
        self._pairs, self._ranks, self._batches = pairs, ranks, batches
        self._common, self._first = common, first
        self._ahead: tuple[list[int], Any] | None = None

    def sums(self, split: str, numbers: Sequence[int]) -> torch.Tensor:
        question = self._ask(split, list(numbers))
        found: torch.Tensor = self._common(ray.get(question) if self._first else None)
        return found

    def fetch(self) -> None:
        numbers, question = self._ahead or self._next()
        self._ahead = self._next()
        sums = self._common(ray.get(question) if self._first else None)
        self.learn([self._pairs[number] for number in numbers], sums)

    def end_step(self) -> None:
        # All ranks forget, even what the next batch has again: `fetch` waits for all of them.
        self._known.clear()

    def _next(self) -> tuple[list[int], Any]:
        numbers = next(self._batches, [])
        return numbers, self._ask("train", numbers) if numbers else None

    def _ask(self, split: str, numbers: list[int]) -> Any:
        if not self._first:
            return None
        answers = [rank.answer.remote(split, numbers) for rank in self._ranks]
        return answers[0]


def _key(ids: torch.Tensor) -> bytes:
    return hashlib.blake2b(ids.int().cpu().numpy().tobytes(), digest_size=16).digest()
