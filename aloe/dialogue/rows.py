"""Turns as rows of `aloe.schema.NODES`, and back."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from aloe.dialogue.branches import REPLY_ROLES, Pick, is_spine, picks, turn_of
from aloe.dialogue.turn import Pair, SelectedTurn, Turn
from aloe.engines import Message
from aloe.errors import CallFailed, ContextExceeded
from aloe.roles import BUILT_IN, Answer, Persona, Prompts
from aloe.schema import NODES, derive_seed, stable_id

Row = dict[str, Any]

CONTEXT = "context"
"""Kind of an end that is no error: the dialogue has outgrown the model's context."""

_ORDER = {role: place for place, role in enumerate(("user", *REPLY_ROLES))}


@dataclass(frozen=True)
class TreeSeed:
    """What a tree grows from; equal seeds grow equal trees."""

    tree_id: str
    persona: Persona
    split: str
    seed: int
    fingerprint: str
    prompts: Prompts = BUILT_IN
    history: tuple[Message, ...] = ()
    """What was said before the first turn, by others."""


def turn_seed(start: TreeSeed, branch: int) -> int:
    """The seed of one turn, the same for twins. On the spine it is the same whatever else branches
    off."""
    place = [start.persona.twin_id or start.tree_id, turn_of(branch)]
    return derive_seed(start.seed, *place, *([] if is_spine(branch) else [branch]))


def turn_rows(start: TreeSeed, branch: int, turn: Turn, parent: str | None) -> list[Row]:
    """The user's node, then the replies of each role; each with all columns, null where unused.

    Args:
        parent: node that the user answers; None at the root.
    """
    spine = is_spine(branch)
    user = _user_row(start, branch, turn, parent)
    picked, _ = picks(turn_seed(start, branch), len(turn.pairs))
    return [user] + [
        _reply_row(start, user, role, sample)
        | _judged(role, pair)
        | {"on_spine": spine and picked == (role, sample)}
        for role in REPLY_ROLES
        for sample, pair in enumerate(turn.pairs)
    ]


def selected_rows(
    start: TreeSeed, branch: int, turn: SelectedTurn, parent: str | None
) -> list[Row]:
    """The user's node, then the replies; ``preferred`` are those that meet most."""
    user = _user_row(start, branch, turn, parent)
    return [user] + [
        _reply_row(start, user, turn.role, sample)
        | _said(answer)
        | {
            "preferred": turn.met[sample] == max(turn.met),
            "met": turn.met[sample],
            "selected": turn.exemplary[sample],
            "on_spine": sample == turn.chosen,
            "calls": [answer.call],
        }
        for sample, answer in enumerate(turn.replies)
    ]


def _common(start: TreeSeed, branch: int) -> Row:
    return dict.fromkeys(NODES.names) | {
        "tree_id": start.tree_id,
        "turn": turn_of(branch),
        "branch": branch,
        "persona_id": start.persona.persona_id,
        "profile": start.persona.profile,
        "personality": start.persona.personality,
        "preferences": list(start.persona.preferences),
        "twin_id": start.persona.twin_id,
        "split": start.split,
        "seed": start.seed,
        "fingerprint": start.fingerprint,
    }


def _user_row(start: TreeSeed, branch: int, turn: Turn | SelectedTurn, parent: str | None) -> Row:
    return _common(start, branch) | {
        "node_id": _node_id(start.tree_id, branch, "user"),
        "parent_id": parent,
        "role": "user",
        **_said(turn.user),
        "history": list(start.history) or None if parent is None else None,
        "on_spine": is_spine(branch),
        "induced_profile": turn.induced.value.profile,
        "induced_personality": turn.induced.value.personality,
        "hint": turn.hint,
        "calls": [turn.user.call, turn.induced.call],
    }


def _reply_row(start: TreeSeed, user: Row, role: str, sample: int) -> Row:
    return _common(start, user["branch"]) | {
        "node_id": _node_id(start.tree_id, user["branch"], role, sample),
        "parent_id": user["node_id"],
        "role": role,
        "sample": sample,
    }


def _judged(role: str, pair: Pair) -> Row:
    judge = pair.preference
    values = {
        "preferred": judge.guided_preferred is True,
        "judge_probability": judge.guided,
        "judge_shown_first": judge.guided_first,
        **_said(pair.guided),
        "calls": [pair.guided.call, pair.judged[0]],
    }
    if role == "unguided":
        values = {
            "preferred": judge.guided_preferred is False,
            "judge_probability": 1 - judge.guided,
            "judge_shown_first": 1 - judge.guided_second,
            **_said(pair.unguided),
            "calls": [pair.unguided.call, pair.judged[1]],
        }
    return values | {"judge_agrees": judge.agrees}


def _said(answer: Answer[str]) -> Row:
    return {
        "text": answer.value,
        "reasoning": answer.reasoning or None,
        "finish_reason": answer.call["finish_reason"],
    }


def _node_id(tree_id: str, branch: int, role: str, sample: int = 0) -> str:
    place = [tree_id, turn_of(branch), role]
    # The paper's tree keeps the ids that it has without any branches.
    return stable_id(*place, *([] if is_spine(branch) and not sample else [branch, sample]))


def finished_turns(rows: Iterable[Row], size: int) -> dict[int, list[Row]]:
    """Rows by branch, each turn in the order of `turn_rows`; turns that lack rows are left out.

    Args:
        size: rows of a whole turn.
    """
    turns: dict[int, list[Row]] = {}
    for row in rows:
        turns.setdefault(row["branch"], []).append(row)
    for turn in turns.values():
        turn.sort(key=lambda row: (_ORDER[row["role"]], row["sample"] or 0))
    return {branch: turn for branch, turn in turns.items() if len(turn) == size}


def in_order(turns: dict[int, list[Row]]) -> list[Row]:
    """All rows by number of their branch, whichever was finished first."""
    return [row for branch in sorted(turns) for row in turns[branch]]


def selected_in(turn: list[Row]) -> Pick:
    """The reply with which a conversation goes on where replies are selected."""
    row = next(row for row in turn if row["role"] != "user" and row["on_spine"])
    return Pick(row["role"], row["sample"])


def answered_by(turn: list[Row], pick: Pick) -> tuple[str, list[Message]]:
    """Id of the reply that is picked, and what this turn adds to the conversation."""
    user, *replies = turn
    answer = next(row for row in replies if (row["role"], row["sample"]) == pick)
    return answer["node_id"], [
        {"role": "user", "content": user["text"]},
        {"role": "assistant", "content": answer["text"]},
    ]


def end_row(start: TreeSeed, branch: int, error: CallFailed) -> Row:
    """Row of `aloe.schema.ERRORS` for a branch that ends because a call of its turn failed."""
    return {
        "stage": "dialogue",
        "item_id": start.tree_id,
        "persona_id": start.persona.persona_id,
        "turn": turn_of(branch),
        "branch": branch,
        "role": error.role,
        "kind": CONTEXT if error.kind == ContextExceeded.__name__ else error.kind,
        "message": str(error),
        "calls": [error.call],
    }
