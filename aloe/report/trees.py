"""Dialogue trees for reading: which ones, and their rows put back into turns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from aloe.schema import NODES, derive_seed
from aloe.storage.manifest import load_manifest
from aloe.storage.store import Store

_FOLDER = "dialogue/nodes"
_COLUMNS = [name for name in NODES.names if name != "fingerprint"]

Node = dict[str, Any]


@dataclass(frozen=True)
class Reply:
    """One of a turn's replies."""

    role: str
    """guided | unguided"""
    text: str
    preferred: bool
    place: Literal["carries on", "branches off", "leaf"]
    """Whether the dialogue goes on with it, another branch does, or none."""
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
    comparisons: int
    """Pairs of a guided and an unguided reply that were judged."""
    agreements: int
    """Those of them in which the judge preferred the same reply in both orders."""
    ties: int
    """Those of them in which it preferred neither, on average."""
    replies: list[Reply]
    """The one that the dialogue goes on with, one that branches off, then leaves."""
    aside: list[Turn] = field(default_factory=list)
    """The turns that branch off here, along their own spine; only on the tree's spine."""


@dataclass(frozen=True)
class Tree:
    tree_id: str
    profile: str
    personality: str
    split: str
    history: list[dict[str, str]]
    """What was said before the first turn, where a given conversation is gone on with."""
    turns: list[Turn]
    """Along the spine."""
    turns_aside: int
    """Turns on all other branches."""
    turns_hidden: int
    """Those of them that no `Turn.aside` holds."""
    guided_preferred: int
    """Over all branches, as are the next three."""
    comparisons: int
    agreements: int
    tokens: int


def choose_trees(store: Store, count: int, seed: int) -> tuple[list[Tree], int | None]:
    """At most ``count`` finished trees, drawn by seed, and how many there are in all.

    How many is None while trees are still grown and not every file was looked at: at most ``count``
    files are read. The draw ranks files by a hash of seed and name, and then their trees: those of
    a preview mostly stay when more come in.
    """

    def rank(name: str) -> int:
        return derive_seed(seed, "report", name)

    parts = [name for name in store.names(_FOLDER) if name.endswith(".parquet")]
    looked_at = sorted(parts, key=rank)[:count]
    part_of = {
        tree_id: part
        for part in looked_at
        for tree_id in _read(store, part, ["tree_id"])["tree_id"].unique().to_pylist()
    }
    drawn = sorted(part_of, key=rank)[:count]
    nodes: dict[str, list[Node]] = {tree_id: [] for tree_id in drawn}
    for part in dict.fromkeys(part_of[tree_id] for tree_id in drawn):
        for node in _read(store, part, _COLUMNS).to_pylist():
            if node["tree_id"] in nodes:
                nodes[node["tree_id"]].append(node)
    dialogue = load_manifest(store, "dialogue")
    available = dialogue.counts["trees"] if dialogue and dialogue.complete else None
    if len(looked_at) == len(parts):
        available = len(part_of)
    return [build_tree(nodes[tree_id]) for tree_id in drawn], available


def _read(store: Store, part: str, columns: list[str]) -> Any:
    return store.read_table(f"{_FOLDER}/{part}", NODES, columns)


def build_tree(nodes: list[Node]) -> Tree:
    """Put the rows of one tree (`aloe.schema.NODES`, at least one) into turns."""
    branches: dict[int, list[Node]] = {}
    for node in nodes:
        branches.setdefault(node["branch"], []).append(node)
    spine = list(_spine_from(1, branches))
    asides = {branch: list(_spine_from(2 * branch + 1, branches)) for branch in spine}
    turns = [_turn(b, branches, [_turn(a, branches) for a in asides[b]]) for b in spine]
    first = nodes[0]
    guided = [node for node in nodes if node["role"] == "guided"]
    calls = [call for node in nodes for call in node["calls"]]
    turns_aside = len(branches) - len(spine)
    return Tree(
        tree_id=first["tree_id"],
        profile=first["profile"],
        personality=first["personality"],
        split=first["split"],
        history=_history(branches[1]),
        turns=turns,
        turns_aside=turns_aside,
        turns_hidden=turns_aside - sum(map(len, asides.values())),
        guided_preferred=sum(node["preferred"] for node in guided),
        comparisons=len(guided),
        agreements=sum(node["judge_agrees"] for node in guided),
        tokens=sum(call["prompt_tokens"] + call["completion_tokens"] for call in calls),
    )


def _history(root: list[Node]) -> list[dict[str, str]]:
    return next(node["history"] or [] for node in root if node["role"] == "user")


def _spine_from(branch: int, branches: dict[int, list[Node]]) -> Iterator[int]:
    """A branch and those that go on from it after the replies picked at random."""
    while branch in branches:
        yield branch
        branch *= 2


def _turn(branch: int, branches: dict[int, list[Node]], aside: list[Turn] | None = None) -> Turn:
    user = next(node for node in branches[branch] if node["role"] == "user")
    guided = [node for node in branches[branch] if node["role"] == "guided"]
    answered = [_answered(2 * branch, branches), _answered(2 * branch + 1, branches)]
    replies = [_reply(node, answered) for node in branches[branch] if node["role"] != "user"]
    places = ("carries on", "branches off", "leaf")
    return Turn(
        number=user["turn"],
        user=user["text"],
        induced_profile=user["induced_profile"],
        induced_personality=user["induced_personality"],
        calls=user["calls"],
        comparisons=len(guided),
        agreements=sum(node["judge_agrees"] for node in guided),
        ties=len(guided) - sum(reply.preferred for reply in replies),
        replies=sorted(replies, key=lambda reply: places.index(reply.place)),
        aside=aside or [],
    )


def _answered(branch: int, branches: dict[int, list[Node]]) -> str | None:
    """The id of the reply that the user of this branch answers."""
    return next((n["parent_id"] for n in branches.get(branch, []) if n["role"] == "user"), None)


def _reply(node: Node, answered: list[str | None]) -> Reply:
    mean, first = node["judge_probability"], node["judge_shown_first"]
    place: Literal["carries on", "branches off", "leaf"] = "leaf"
    if node["on_spine"] or node["node_id"] == answered[0]:  # the last turn has no next user
        place = "carries on"
    elif node["node_id"] == answered[1]:
        place = "branches off"
    return Reply(
        role=node["role"],
        text=node["text"],
        preferred=node["preferred"],
        place=place,
        probability=mean,
        shown_first=first,
        shown_second=min(max(2 * mean - first, 0.0), 1.0),  # float32 may overshoot
        calls=node["calls"],
    )
