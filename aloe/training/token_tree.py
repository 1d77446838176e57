"""Sequences that begin alike as one tree of tokens, so that each token is computed once.

All turns of a dialogue tree share their history. One after the other, turn k pays again for turns
1 to k - 1; in a tree every token stands once, with its position on its own path, and sees only its
ancestors (issue 5). Nodes are numbered depth first: the nodes below node j are exactly those from
j + 1 to end[j] - 1, so node i sees node j where j <= i < end[j]. That one number per node is the
whole attention mask, and trees that stand one after the other do not see each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class TokenTree:
    """A forest of tokens. Arrays are int64 [nodes], but for ``paths``."""

    ids: Ints
    position: Ints
    """Distance from the root."""
    end: Ints
    """One past the last node below."""
    paths: list[Ints]
    """Nodes of each sequence, in the order in which the sequences came: [tokens] each."""

    def __len__(self) -> int:
        return len(self.ids)


def pack(sequences: Sequence[Sequence[int]]) -> TokenTree:
    """One forest for all sequences; equal beginnings become one path."""
    # Sorted, each sequence shares with the one before it all that it shares with any before, and
    # the nodes come out depth first.
    order = sorted(range(len(sequences)), key=lambda index: list(sequences[index]))
    ids: list[int] = []
    position: list[int] = []
    end: list[int] = []
    path: list[int] = []
    before: list[int] = []
    paths: dict[int, Ints] = {}
    for index in order:
        tokens = list(sequences[index])
        shared = _common(before, tokens)
        _close(path[shared:], end, len(ids))
        fresh = range(len(ids), len(ids) + len(tokens) - shared)
        path = [*path[:shared], *fresh]
        ids += tokens[shared:]
        position += range(shared, len(tokens))
        end += [-1] * len(fresh)
        paths[index], before = np.array(path, np.int64), tokens
    _close(path, end, len(ids))
    return TokenTree(
        np.array(ids, np.int64),
        np.array(position, np.int64),
        np.array(end, np.int64),
        [paths[index] for index in range(len(sequences))],
    )


def sees(end: Ints) -> npt.NDArray[np.bool_]:
    """The attention mask, [nodes, nodes]: whether the first node sees the second."""
    node = np.arange(len(end))
    return (node[None, :] <= node[:, None]) & (node[:, None] < end[None, :])


def _common(one: list[int], other: list[int]) -> int:
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))


def _close(nodes: list[int], end: list[int], at: int) -> None:
    for node in nodes:
        end[node] = at
