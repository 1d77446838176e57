"""The greedy similarity filter: who is different enough to join a pool (paper, section 2.1)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

NOTHING_TO_COMPARE = np.float32(-1.0)


class SimilarityFilter:
    """A growing matrix of unit embeddings.

    A candidate is kept if its highest cosine similarity to the whole pool, candidates kept before
    it included, is at most the threshold. Whole batches are compared by matrix product; the kept
    set is the one of comparing one by one. A zero vector is similar to nothing (cosine 0).
    """

    def __init__(self, threshold: float, width: int, batch: int = 1024) -> None:
        """Start with an empty pool.

        Args:
            threshold: highest cosine with which a candidate is kept.
            width: components of one embedding.
            batch: candidates, and pool members, in one matrix product: bounds the memory.
        """
        self._threshold, self._batch = np.float32(threshold), batch
        self._rows: Floats = np.empty((batch, width), np.float32)
        self._size = 0

    def __len__(self) -> int:
        return self._size

    @property
    def embeddings(self) -> Floats:
        """The pool so far, (members, width), in the order in which members joined."""
        return self._rows[: self._size]

    def accept(self, candidates: Floats) -> tuple[Mask, Floats]:
        """Let candidates join, in order.

        Args:
            candidates: (n, width) float32, rows of unit length or zero.

        Returns:
            Who was kept, (n,) bool, and each one's highest cosine when its turn came, (n,)
            float32; that is -1 when the pool was empty.
        """
        kept = np.zeros(len(candidates), np.bool_)
        highest = np.full(len(candidates), NOTHING_TO_COMPARE)
        for start in range(0, len(candidates), self._batch):
            part = slice(start, start + self._batch)
            kept[part], highest[part] = self._accept_batch(candidates[part])
        return kept, highest

    def _accept_batch(self, candidates: Floats) -> tuple[Mask, Floats]:
        highest = self._against_pool(candidates)
        among = candidates @ candidates.T
        kept = np.zeros(len(candidates), np.bool_)
        for index in range(len(candidates)):
            if highest[index] <= self._threshold:
                kept[index] = True
                later = highest[index + 1 :]
                np.maximum(later, among[index, index + 1 :], out=later)
        self.add(candidates[kept])
        return kept, highest

    def _against_pool(self, candidates: Floats) -> Floats:
        highest = np.full(len(candidates), NOTHING_TO_COMPARE)
        for start in range(0, self._size, self._batch):
            block = self.embeddings[start : start + self._batch]
            np.maximum(highest, (candidates @ block.T).max(axis=1), out=highest)
        return highest

    def add(self, rows: Floats) -> None:
        """Let (n, width) rows join without a comparison: members of a pool taken up again."""
        needed = self._size + len(rows)
        if needed > len(self._rows):
            grown = np.empty((max(needed, 2 * len(self._rows)), self._rows.shape[1]), np.float32)
            grown[: self._size] = self.embeddings
            self._rows = grown
        self._rows[self._size : needed] = rows
        self._size = needed
