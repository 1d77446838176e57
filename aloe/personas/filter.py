"""The greedy similarity filter: who is different enough to join a pool (paper, section 2.1)."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

NOTHING_TO_COMPARE = np.float32(-1.0)

_UNIT_TOLERANCE = 1e-3


def cosine(one: Floats, other: Floats) -> np.float32:
    """The definition: the exact sum of the products of two unit vectors, rounded to float32."""
    # Products of two float32 are exact in float64, and fsum rounds their sum once.
    return np.float32(math.fsum((one.astype(np.float64) * other).tolist()))


class SimilarityFilter:
    """A growing pool of unit embeddings.

    A candidate is kept if its `cosine` to every member, candidates kept before it included, is at
    most the threshold. A zero vector is similar to nothing (cosine 0).

    Candidates are compared by float32 matrix products, whose last bits depend on their shape. Where
    that error could matter `cosine` decides, so the kept set is the one of comparing one by one,
    whatever the batches. Members are compared block by block in the order in which they joined; a
    candidate that is over the threshold to one block is not compared with the next. Memory: the
    pool, one batch and two products of batch x batch.
    """

    def __init__(self, threshold: float, width: int, batch: int = 1024) -> None:
        """Start with an empty pool.

        Args:
            threshold: highest cosine with which a candidate is kept.
            width: components of one embedding.
            batch: candidates, and pool members, in one matrix product.
        """
        self._threshold, self._width, self._batch = np.float32(threshold), width, batch
        # Twice the bound on what float32 loses in `width` products, whatever their order, and one
        # rounding. In float64, or the limits themselves would be rounded.
        self._doubt = np.float64(2 * (width + 1) * 2.0**-24)
        self._surely_over = self._threshold + self._doubt
        self._surely_under = self._threshold - self._doubt
        self._blocks: list[Floats] = []
        self._size = 0

    def __len__(self) -> int:
        return self._size

    @property
    def embeddings(self) -> Floats:
        """The pool so far, a copy, (members, width), in the order in which members joined."""
        return np.concatenate([np.empty((0, self._width), np.float32), *self._members()])

    def accept(self, candidates: Floats) -> tuple[Mask, Floats]:
        """Let candidates join, in order.

        Args:
            candidates: (n, width) float32, rows of unit length or zero.

        Returns:
            Who was kept, (n,) bool, and a cosine of each, (n,) float32. Of those kept it is the
            highest when their turn came, -1 if the pool was empty; of the others one that is over
            the threshold, not always the highest. ``cosines <= float32(threshold)`` is ``kept``.

        Raises:
            ValueError: a row is neither of unit length nor zero.
        """
        self._check(candidates)
        kept = np.zeros(len(candidates), np.bool_)
        highest = np.full(len(candidates), NOTHING_TO_COMPARE)
        for start in range(0, len(candidates), self._batch):
            part = slice(start, start + self._batch)
            self._accept_batch(candidates[part], kept[part], highest[part])
        return kept, highest

    def add(self, rows: Floats) -> None:
        """Let (n, width) rows join without a comparison: members of a pool taken up again.

        Raises:
            ValueError: a row is neither of unit length nor zero.
        """
        self._check(rows)
        self._append(rows)

    def _accept_batch(self, candidates: Floats, kept: Mask, highest: Floats) -> None:
        """Fill in ``kept`` and ``highest``."""
        places = self._not_over(candidates, highest)
        left = candidates[places]
        among, top = left @ left.T, highest[places]
        for index, place in enumerate(places):
            if top[index] > self._surely_over:
                continue
            if top[index] > self._surely_under:
                top[index] = self._decide(left[index])
            if top[index] <= self._threshold:
                kept[place] = True
                self._append(left[index : index + 1])
                later = top[index + 1 :]
                np.maximum(later, among[index, index + 1 :], out=later)
        highest[places] = top

    def _not_over(self, candidates: Floats, highest: Floats) -> npt.NDArray[np.intp]:
        """Raise ``highest`` to the pool; returns who is not surely over the threshold."""
        places = np.arange(len(candidates))
        for block in self._members():
            top = np.maximum(highest[places], (candidates @ block.T).max(axis=1))
            highest[places] = top
            staying = top <= self._surely_over
            if not staying.all():
                places, candidates = places[staying], candidates[staying]
        return places

    def _decide(self, candidate: Floats) -> np.float32:
        """The highest `cosine` to the pool, of a candidate whose product lies in doubt."""
        # Another product may lie lower than the first by the errors of both.
        least = self._surely_under - 2 * self._doubt
        return max(
            (
                cosine(candidate, block[place])
                for block in self._members()
                for place in np.flatnonzero(block @ candidate >= least)
            ),
            default=NOTHING_TO_COMPARE,
        )

    def _members(self) -> list[Floats]:
        full, rest = divmod(self._size, self._batch)
        return self._blocks[:full] + ([self._blocks[full][:rest]] if rest else [])

    def _append(self, rows: Floats) -> None:
        while len(rows):
            place = self._size % self._batch
            if not place:
                self._blocks.append(np.empty((self._batch, self._width), np.float32))
            joining = rows[: self._batch - place]
            self._blocks[-1][place : place + len(joining)] = joining
            self._size += len(joining)
            rows = rows[len(joining) :]

    def _check(self, rows: Floats) -> None:
        squares = np.einsum("ij,ij->i", rows, rows)
        wrong = ~((np.abs(squares - 1) <= _UNIT_TOLERANCE) | (squares == 0))
        if wrong.any():
            place = int(np.flatnonzero(wrong)[0])
            raise ValueError(
                f"embedding {place}: expected a vector of length 1 or 0, "
                f"got length {math.sqrt(squares[place]):.4g}"
            )
