"""SFT rows, DPO pairs and RL prompts of one tree. Every history is the one that was really held."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple

from aloe.engines import Message
from aloe.errors import UserError
from aloe.roles import BUILT_IN, Prompts, is_even, policy_messages
from aloe.schema import NODES, stable_id
from aloe.storage import Store
from aloe.storage.tables import read_parts

Node = dict[str, Any]

_PERSONA = ("persona_id", "split", "profile", "personality", "preferences", "twin_id")


@dataclass(frozen=True)
class TurnView:
    """A user's message, what was said before it, and two replies that were judged together."""

    history: list[Message]
    """True conversation up to and including the user's message."""
    user: Node
    sample: int
    """Which of the turn's pairs of replies this is, from 0."""
    preferred: Node
    rejected: Node
    tie: bool = False
    """Neither is preferred: there is no pair in it, and nothing to learn. ``preferred`` is then the
    one that the conversation goes on with, or the first."""
    siblings: tuple[Node, ...] = ()
    """Further replies to the same message, where one of several was selected."""

    @property
    def on_spine(self) -> bool:
        """Whether the spine goes on with one of the two."""
        return bool(self.preferred["on_spine"] or self.rejected["on_spine"])


class TreeRows(NamedTuple):
    """What is learned from one tree."""

    sft: list[dict[str, Any]]
    """Rows of `aloe.schema.SFT`."""
    pairs: list[dict[str, Any]]
    """Rows of PAIRS."""
    prompt: dict[str, Any]
    """Row of PROMPTS."""
    turns: int
    comparisons: int
    """Choices between replies."""
    ties: int
    """Those of them that prefer none."""


def read_trees(store: Store) -> Iterator[list[Node]]:
    """The run's trees, one part of ``dialogue/nodes`` in memory at a time."""
    columns = [name for name in NODES.names if name != "calls"]
    for nodes in read_parts(store, "dialogue/nodes", NODES, columns):
        yield from split_trees(nodes)


def split_trees(nodes: Iterable[Node]) -> Iterator[list[Node]]:
    """Rows of `aloe.schema.NODES` as one list per tree, in order of branches."""

    def by_tree(node: Node) -> str:
        return node["tree_id"]

    for _, group in groupby(sorted(nodes, key=by_tree), by_tree):
        yield sorted(group, key=lambda node: node["branch"])


def walk(tree: list[Node]) -> Iterator[TurnView]:
    """All pairs of replies in one tree, by branch and sample.

    Args:
        tree: all nodes of one tree, in order of branches.

    Raises:
        UserError: of two replies that were judged together both are preferred, or neither although
            they are not even.
    """
    replies: dict[str, list[Node]] = {}
    for node in tree:
        if node["role"] != "user":
            replies.setdefault(node["parent_id"], []).append(node)
    given: list[Message] = tree[0]["history"] or []
    before: dict[str | None, list[Message]] = {None: given}  # conversation up to a reply, by its id
    for user in (node for node in tree if node["role"] == "user"):
        heard = [*before[user["parent_id"]], _message("user", user)]
        judged: dict[int, list[Node]] = {}
        for reply in replies[user["node_id"]]:
            before[reply["node_id"]] = [*heard, _message("assistant", reply)]
            judged.setdefault(reply["sample"], []).append(reply)
        for sample, pair in sorted(judged.items()):
            preferred = [node for node in pair if node["preferred"]]
            rejected = [node for node in pair if not node["preferred"]]
            if len(rejected) == 2 and all(is_even(node["judge_probability"]) for node in pair):
                best, other = sorted(pair, key=lambda node: not node["on_spine"])
                yield TurnView(heard, user, sample, best, other, tie=True)
                continue
            if len(preferred) != 1 or len(rejected) != 1:
                raise UserError(
                    f"tree {user['tree_id']}, node {user['node_id']}, sample {sample}: "
                    f"{len(preferred)} of {len(pair)} replies are preferred, expected 1 of 2"
                )
            yield TurnView(heard, user, sample, preferred[0], rejected[0])


def sft_row(turn: TurnView, prompts: Prompts = BUILT_IN) -> dict[str, Any]:
    """The preferred reply in its true history (row of `aloe.schema.SFT`)."""
    return _common(turn) | {
        "row_id": stable_id("sft", turn.preferred["node_id"]),
        "prompt": policy_messages(turn.history, prompts=prompts),
        "response": turn.preferred["text"],
        "reasoning": turn.preferred["reasoning"],
        "ended": _ended(turn.preferred),
    }


def pair_row(turn: TurnView, prompts: Prompts = BUILT_IN) -> dict[str, Any]:
    """Preferred against rejected in the same true history (row of `aloe.schema.PAIRS`)."""
    sample = [turn.sample] if turn.sample else []  # the first pair keeps the id it has alone
    return _common(turn) | {
        "pair_id": stable_id("pair", turn.user["node_id"], *sample),
        "prompt": policy_messages(turn.history, prompts=prompts),
        "preferred": turn.preferred["text"],
        "rejected": turn.rejected["text"],
        "preferred_reasoning": turn.preferred["reasoning"],
        "rejected_reasoning": turn.rejected["reasoning"],
        "preferred_ended": _ended(turn.preferred),
        "rejected_ended": _ended(turn.rejected),
        "preferred_role": turn.preferred["role"],
        "probability": turn.preferred["judge_probability"],
        "judge_agrees": turn.preferred["judge_agrees"],
    }


def prompt_row(first: TurnView, prompts: Prompts = BUILT_IN) -> dict[str, Any]:
    """Where an RL episode with this persona starts (row of `aloe.schema.PROMPTS`)."""
    node = first.user
    return {
        "prompt_id": stable_id("prompt", node["node_id"]),
        **{key: node[key] for key in _PERSONA},
        "prompt": policy_messages(first.history, prompts=prompts),
    }


def _common(turn: TurnView) -> dict[str, Any]:
    return {key: turn.user[key] for key in ("tree_id", "persona_id", "split", "turn")}


def _ended(node: Node) -> bool:
    return bool(node["finish_reason"] == "stop")


def _message(role: str, node: Node) -> Message:
    return {"role": role, "content": node["text"]}
