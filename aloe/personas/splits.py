"""Splits of whole personas, by seed alone: nothing of the benchmark is in any other split."""

from __future__ import annotations

import random
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from aloe.errors import UserError
from aloe.schema import derive_seed

Split = Literal["", "train", "validation", "benchmark"]
SPLITS: tuple[Split, ...] = ("", "train", "validation", "benchmark")
"""By the numbers of `divide`; the first is of personas that are left out."""
LEFT_OUT, TRAIN, VALIDATION, BENCHMARK = range(4)

Ints = npt.NDArray[np.int8]
Hashes = npt.NDArray[np.uint64]


def divide(
    texts: Hashes, heldout: int, most: int | None, validation_share: float, seed: int
) -> Ints:
    """The split of each persona.

    Personas that have a text in common hang together, over any number of others. Whole groups are
    drawn for the benchmark, until it has ``heldout`` personas; what is over of the last is left
    out, as is what is over ``most`` in the other splits.

    Args:
        texts: (personas, parts) hashes of each persona's texts; 0 where it has none.
        most: train and validation at most; None: all.
        validation_share: of those; at least one where there are two.

    Raises:
        UserError: nothing would be left to train on.
    """
    count = len(texts)
    if count <= heldout:
        raise UserError(
            f"personas.heldout_personas: {heldout} are to be held out of {count} given personas; "
            f"expected at most {count - 1}"
        )
    groups = _groups(texts)
    sizes = np.bincount(groups)
    order = np.random.default_rng(derive_seed(seed, "heldout", "persona")).permutation(len(sizes))
    drawn = order[: int(np.searchsorted(np.cumsum(sizes[order]), heldout)) + 1]
    splits = np.full(count, TRAIN, np.int8)
    held = np.isin(groups, drawn)
    splits[held] = LEFT_OUT
    places = {int(group): place for place, group in enumerate(drawn)}
    tested = sorted(np.flatnonzero(held), key=lambda i: places[int(groups[i])])[:heldout]
    splits[tested] = BENCHMARK
    others = np.flatnonzero(~held)
    if not len(others):
        raise UserError(
            f"personas.heldout_personas: none of {count} given personas is without a profile or a "
            f"personality of the {heldout} to be held out; expected fewer, or personas that differ"
        )
    if most is not None and most < len(others):
        chosen = random.Random(derive_seed(seed, "personas")).sample(range(len(others)), most)
        splits[np.delete(others, chosen)] = LEFT_OUT
        others = others[sorted(chosen)]
    if len(others) > 1:
        share = min(max(1, round(validation_share * len(others))), len(others) - 1)
        drawing = random.Random(derive_seed(seed, "validation"))
        splits[others[drawing.sample(range(len(others)), share)]] = VALIDATION
    return splits


def _groups(texts: Hashes) -> npt.NDArray[np.int32]:
    """Number of the group of each persona."""
    personas, parts = texts.shape
    known, numbers = np.unique(texts, return_inverse=True)
    numbers = numbers.reshape(texts.shape)
    there = texts != 0
    rows = np.repeat(np.arange(personas), parts).reshape(texts.shape)[there]
    columns = personas + numbers[there]
    size = personas + len(known)
    links = coo_matrix((np.ones(len(rows), np.int8), (rows, columns)), (size, size))
    groups = connected_components(links, directed=False)[1][:personas]
    return np.unique(groups, return_inverse=True)[1].astype(np.int32)
