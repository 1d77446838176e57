"""The order of training rows: trees are shuffled, the rows of a tree stay together."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from openrlhf.utils.distributed_sampler import DistributedSampler


class TreeSampler(DistributedSampler):  # type: ignore[misc, type-arg]
    """Deals micro-batches of neighbours to the ranks in turn, so that a tree stays on one rank.

    What does not fill an optimizer step at the end of an epoch is left out; the next epoch has
    another order. So every epoch begins with a step, and a position is a number of rows.
    """

    def __init__(
        self,
        trees: Sequence[str],
        batch_size: int,
        micro_batch_size: int,
        replicas: int,
        rank: int,
        seed: int,
    ) -> None:
        """A sampler of one rank.

        Args:
            trees: tree of each row.
            batch_size: rows of one optimizer step, over all ranks.
            micro_batch_size: rows of one forward pass.
            replicas: number of ranks.
        """
        super().__init__(trees, replicas, rank, seed=seed, drop_last=True)
        self._batch_size, self._size = batch_size, micro_batch_size
        self.total_size = len(trees) // batch_size * batch_size
        self.num_samples = self.total_size // replicas

    def __iter__(self) -> Iterator[int]:
        order = self.order(self.epoch)[: self.total_size]
        step = self._size * self.num_replicas
        mine = [
            row
            for start in range(self._size * self.rank, len(order), step)
            for row in order[start : start + self._size]
        ]
        return iter(mine[self.consumed_indicies :])

    def order(self, epoch: int) -> list[int]:
        """All rows, as an epoch takes them."""
        rows: dict[str, list[int]] = {}
        for row, tree in enumerate(self.dataset):
            rows.setdefault(tree, []).append(row)
        shuffled = list(rows.values())
        random.Random(f"{self.seed} {epoch}").shuffle(shuffled)
        return [row for tree in shuffled for row in tree]

    def batches(self, consumed: int, epochs: int) -> Iterator[list[int]]:
        """Rows of each optimizer step, over all ranks, from a position on.

        Args:
            consumed: rows taken so far, over all epochs.
        """
        first, within = divmod(consumed, max(1, self.total_size))
        for epoch in range(first, epochs):
            order = self.order(epoch)
            for start in range(within, self.total_size, self._batch_size):
                yield order[start : start + self._batch_size]
            within = 0
