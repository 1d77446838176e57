"""Dialogue trees for reading: which ones, and their rows put back into turns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from aloe.schema import NODES, derive_seed
from aloe.storage.store import Store

_FOLDER = "dialogue/nodes"
_COLUMNS = [name for name in NODES.names if name not in ("node_id", "parent_id", "fingerprint")]


@dataclass(frozen=True)
class Reply:
    """One of a turn's two replies."""

    role: str
    """guided | unguided"""
    text: str
    preferred: bool
    on_spine: bool
    probability: float
    """P(this reply preferred), mean of both orders."""
    shown_first: float
    """P(this reply preferred) when the judge sees it first."""
    shown_second: float
    calls: list[dict[str, Any]]


@dataclass(frozen=True)
class Turn:
    number: int
    user: str
    induced_profile: str | None
    induced_personality: str | None
    calls: list[dict[str, Any]]
    agrees: bool
    """The judge preferred the same reply in both orders."""
    replies: list[Reply]
    """The one that the dialogue goes on with, then its sibling."""


@dataclass(frozen=True)
class Tree:
    tree_id: str
    profile: str
    personality: str
    split: str
    turns: list[Turn]

    @property
    def guided_preferred(self) -> int:
        return sum(r.preferred and r.role == "guided" for turn in self.turns for r in turn.replies)

    @property
    def agreements(self) -> int:
        return sum(turn.agrees for turn in self.turns)

    @property
    def tokens(self) -> int:
        calls = [call for t in self.turns for call in [*t.calls, *_calls(t.replies)]]
        return sum(call["prompt_tokens"] + call["completion_tokens"] for call in calls)


def choose_trees(store: Store, count: int, seed: int) -> tuple[list[Tree], int]:
    """At most ``count`` finished trees, drawn by seed, and how many there are in all.

    The draw ranks trees by a hash of seed and name: those of a preview mostly stay when more
    trees come in.
    """
    names = [name for name in store.names(_FOLDER) if name.endswith(".parquet")]
    drawn = sorted(names, key=lambda name: derive_seed(seed, "report", name))[:count]
    rows = (store.read_table(f"{_FOLDER}/{name}", NODES, _COLUMNS).to_pylist() for name in drawn)
    return [build_tree(nodes) for nodes in rows if nodes], len(names)


def build_tree(nodes: list[dict[str, Any]]) -> Tree:
    """Put the rows of one tree (`aloe.schema.NODES`, at least one) into turns."""
    by_turn: dict[int, list[dict[str, Any]]] = {}
    for node in nodes:
        by_turn.setdefault(node["turn"], []).append(node)
    first = nodes[0]
    turns = [_turn(number, by_turn[number]) for number in sorted(by_turn)]
    return Tree(first["tree_id"], first["profile"], first["personality"], first["split"], turns)


def _turn(number: int, nodes: list[dict[str, Any]]) -> Turn:
    user = next(node for node in nodes if node["role"] == "user")
    replies = [node for node in nodes if node["role"] != "user"]
    replies.sort(key=lambda node: not node["on_spine"])
    return Turn(
        number=number,
        user=user["text"],
        induced_profile=user["induced_profile"],
        induced_personality=user["induced_personality"],
        calls=user["calls"],
        agrees=all(node["judge_agrees"] for node in replies),
        replies=[_reply(node) for node in replies],
    )


def _reply(node: Mapping[str, Any]) -> Reply:
    mean, first = node["judge_probability"], node["judge_shown_first"]
    return Reply(
        role=node["role"],
        text=node["text"],
        preferred=node["preferred"],
        on_spine=node["on_spine"],
        probability=mean,
        shown_first=first,
        shown_second=min(max(2 * mean - first, 0.0), 1.0),  # float32 may overshoot
        calls=node["calls"],
    )


def _calls(replies: Iterable[Reply]) -> list[dict[str, Any]]:
    return [call for reply in replies for call in reply.calls]
