"""Conversations of twins side by side: what was hinted at, noted, answered, and what that met."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from aloe.schema import NODES, derive_seed
from aloe.storage.store import Store
from aloe.verifiable import CHECKS

_FOLDER = "dialogue/nodes"
_COLUMNS = [
    "tree_id",
    "turn",
    "role",
    "text",
    "on_spine",
    "selected",
    "induced_personality",
    "hint",
    "profile",
    "preferences",
    "twin_id",
    "split",
]
_PARTS = 4
"""Files that are looked at."""

Node = dict[str, Any]


@dataclass(frozen=True)
class TwinTurn:
    """One turn of one twin."""

    number: int
    user: str
    hint: str | None
    noted: str | None
    role: str
    reply: str
    met: dict[str, bool]
    """Kind that the twin likes -> whether the reply meets it."""


@dataclass(frozen=True)
class Twin:
    preferences: list[str]
    turns: list[TwinTurn]


@dataclass(frozen=True)
class Twins:
    """Two who like the opposites and share all else."""

    profile: str
    split: str
    pair: list[Twin]


def choose_twins(store: Store, count: int, seed: int) -> list[Twins]:
    """At most ``count`` pairs whose conversations went on with selected replies, drawn by seed."""

    def rank(name: str) -> int:
        return derive_seed(seed, "report", name)

    parts = [name for name in store.names(_FOLDER) if name.endswith(".parquet")]
    nodes: dict[str, dict[str, list[Node]]] = {}
    # Neighbours: twins may lie in two files, one after the other.
    start = rank("parts") % max(len(parts) - _PARTS + 1, 1)
    for part in parts[start : start + _PARTS]:
        for node in store.read_table(f"{_FOLDER}/{part}", NODES, _COLUMNS).to_pylist():
            if node["twin_id"]:
                nodes.setdefault(node["twin_id"], {}).setdefault(node["tree_id"], []).append(node)
    whole = [name for name, trees in nodes.items() if len(trees) > 1]
    return [_twins(nodes[name]) for name in sorted(whole, key=rank)[:count]]


def replies_are_selected(store: Store) -> bool:
    """Whether conversations went on with selected replies: then there are no pairs of replies."""
    parts = [name for name in store.names(_FOLDER) if name.endswith(".parquet")]
    if not parts:
        return False
    table = store.read_table(f"{_FOLDER}/{parts[0]}", NODES, ["selected"])
    return bool(table["selected"].null_count < len(table))


def _twins(trees: dict[str, list[Node]]) -> Twins:
    first = next(iter(trees.values()))[0]
    pair = [Twin(tree[0]["preferences"], _turns(tree)) for tree in trees.values()]
    return Twins(first["profile"], first["split"], pair)


def _turns(tree: Iterable[Node]) -> list[TwinTurn]:
    by_turn: dict[int, list[Node]] = {}
    for node in tree:
        by_turn.setdefault(node["turn"], []).append(node)
    return [_turn(number, by_turn[number]) for number in sorted(by_turn)]


def _turn(number: int, nodes: list[Node]) -> TwinTurn:
    user = next(node for node in nodes if node["role"] == "user")
    reply = next(node for node in nodes if node["role"] != "user" and node["on_spine"])
    return TwinTurn(
        number,
        user["text"],
        user["hint"],
        user["induced_personality"],
        reply["role"],
        reply["text"],
        {kind: CHECKS[kind].met(reply["text"], user["profile"]) for kind in user["preferences"]},
    )
