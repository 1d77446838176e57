"""SFT rows, DPO pairs and RL prompts of one tree. Every history is the one that was really held."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from aloe.engines import Message
from aloe.roles import policy_messages
from aloe.schema import stable_id

Node = dict[str, Any]


@dataclass(frozen=True)
class TurnView:
    """One turn of a tree: what was said before, and the two replies of which one went on."""

    history: list[Message]
    """True conversation up to and including this turn's user message."""
    user: Node
    preferred: Node
    rejected: Node


def split_trees(nodes: Iterable[Node]) -> Iterator[list[Node]]:
    """Rows of `aloe.schema.NODES` as one list per tree, in order of turns."""

    def by_tree(node: Node) -> str:
        return node["tree_id"]

    for _, group in groupby(sorted(nodes, key=by_tree), by_tree):
        yield sorted(group, key=lambda node: node["turn"])


def walk(tree: list[Node]) -> Iterator[TurnView]:
    """The turns of one tree along its spine."""
    history: list[Message] = []
    for _, group in groupby(tree, lambda node: node["turn"]):
        turn = list(group)
        user = next(node for node in turn if node["role"] == "user")
        replies = [node for node in turn if node["role"] != "user"]
        history = [*history, {"role": "user", "content": user["text"]}]
        yield TurnView(
            history,
            user,
            next(node for node in replies if node["preferred"]),
            next(node for node in replies if not node["preferred"]),
        )
        spine = next(node for node in replies if node["on_spine"])
        history = [*history, {"role": "assistant", "content": spine["text"]}]


def sft_row(turn: TurnView) -> dict[str, Any]:
    """The preferred reply in its true history (row of `aloe.schema.SFT`)."""
    return _common(turn) | {
        "row_id": stable_id("sft", turn.preferred["node_id"]),
        "prompt": policy_messages(turn.history),
        "response": turn.preferred["text"],
    }


def pair_row(turn: TurnView) -> dict[str, Any]:
    """Preferred against rejected in the same true history (row of `aloe.schema.PAIRS`)."""
    return _common(turn) | {
        "pair_id": stable_id("pair", turn.user["node_id"]),
        "prompt": policy_messages(turn.history),
        "preferred": turn.preferred["text"],
        "rejected": turn.rejected["text"],
        "preferred_role": turn.preferred["role"],
        "probability": turn.preferred["judge_probability"],
        "judge_agrees": turn.preferred["judge_agrees"],
    }


def prompt_row(first: TurnView) -> dict[str, Any]:
    """Where an RL episode with this persona starts (row of `aloe.schema.PROMPTS`)."""
    node = first.user
    return {
        "prompt_id": stable_id("prompt", node["node_id"]),
        **{key: node[key] for key in ("persona_id", "split", "profile", "personality")},
        "prompt": policy_messages(first.history),
    }


def _common(turn: TurnView) -> dict[str, Any]:
    return {key: turn.user[key] for key in ("tree_id", "persona_id", "split", "turn")}
