"""One dialogue tree: a spine of turns with one sibling leaf at each (paper section 3)."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aloe.config import DialogueConfig
from aloe.engines import Engine, Message
from aloe.errors import CallFailed
from aloe.roles import Induced, Persona, Preference, induce, prefer, reply, say_user
from aloe.schema import derive_seed, stable_id


@dataclass(frozen=True)
class TreeSeed:
    """What a tree grows from; equal seeds grow equal trees."""

    tree_id: str
    persona: Persona
    split: str
    seed: int
    fingerprint: str


class TreeFailed(Exception):
    """A call of this tree failed for good; carries the row for the errors table."""

    def __init__(self, row: dict[str, Any]) -> None:
        super().__init__(row["message"])
        self.row = row


@dataclass(frozen=True)
class _Turn:
    """All that was said and thought in one turn, before it becomes rows."""

    user: str
    induced: Induced
    replies: dict[str, str]
    """guided and unguided"""
    preference: Preference
    next_role: str
    """Whose reply goes on as the assistant's turn."""
    calls: dict[str, list[dict[str, Any]]]
    """Calls by the node that keeps them: user, guided, unguided."""


async def grow_tree(
    start: TreeSeed, engines: Mapping[str, Engine], config: DialogueConfig
) -> list[dict[str, Any]]:
    """Hold one conversation of ``config.turns`` turns.

    Args:
        engines: by role (user, inducer, guided, unguided, judge).

    Returns:
        Rows of `aloe.schema.NODES`: user, guided and unguided node of each turn, in order.

    Raises:
        TreeFailed: one call had no usable answer in ``config.tries`` tries.
    """
    history: list[Message] = []
    rows: list[dict[str, Any]] = []
    parent: str | None = None
    for number in range(1, config.turns + 1):
        try:
            turn = await _hold_turn(start, number, history, engines, config)
        except CallFailed as error:
            raise TreeFailed(_error_row(start, number, error, rows)) from error
        nodes = _rows(start, number, turn, parent)
        rows += nodes
        parent = next(node["node_id"] for node in nodes if node["role"] == turn.next_role)
        history += [
            {"role": "user", "content": turn.user},
            {"role": "assistant", "content": turn.replies[turn.next_role]},
        ]
    return rows


async def _hold_turn(
    start: TreeSeed,
    number: int,
    history: list[Message],
    engines: Mapping[str, Engine],
    config: DialogueConfig,
) -> _Turn:
    persona, tries, sampling = start.persona, config.tries, config.sampling
    seed = derive_seed(start.seed, start.tree_id, number)

    user = await say_user(engines["user"], persona, history, sampling, tries, seed)
    heard: list[Message] = [*history, {"role": "user", "content": user.value}]

    # The unguided reply does not wait for the note that the guided one needs.
    note, unguided = await _both(
        induce(engines["inducer"], persona, heard, config.induction_max_tokens, tries, seed),
        reply(engines["unguided"], "unguided", heard, None, sampling, tries, seed),
    )
    guided = await reply(engines["guided"], "guided", heard, note.value, sampling, tries, seed)

    judge = engines["judge"]
    guided_first, unguided_first = await _both(
        prefer(judge, persona, heard, guided.value, unguided.value, tries, seed),
        prefer(judge, persona, heard, unguided.value, guided.value, tries, seed),
    )
    return _Turn(
        user=user.value,
        induced=note.value,
        replies={"guided": guided.value, "unguided": unguided.value},
        preference=Preference(guided_first.value, 1 - unguided_first.value),
        next_role=random.Random(seed).choice(["guided", "unguided"]),
        calls={
            "user": [user.call, note.call],
            "guided": [guided.call, guided_first.call],
            "unguided": [unguided.call, unguided_first.call],
        },
    )


async def _both(first: Any, second: Any) -> tuple[Any, Any]:
    """Await two calls at once; if one fails, the other is cancelled and its failure is dropped."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = group.create_task(first), group.create_task(second)
    except ExceptionGroup as group_error:
        raise group_error.exceptions[0] from group_error
    return tasks[0].result(), tasks[1].result()


def _rows(start: TreeSeed, number: int, turn: _Turn, parent: str | None) -> list[dict[str, Any]]:
    guided_preferred = turn.preference.guided > 0.5
    probability = {"guided": turn.preference.guided, "unguided": 1 - turn.preference.guided}
    shown_first = {
        "guided": turn.preference.guided_first,
        "unguided": 1 - turn.preference.guided_second,
    }
    common = {
        "tree_id": start.tree_id,
        "turn": number,
        "persona_id": start.persona.persona_id,
        "profile": start.persona.profile,
        "personality": start.persona.personality,
        "split": start.split,
        "seed": start.seed,
        "fingerprint": start.fingerprint,
    }
    user_id = stable_id(start.tree_id, number, "user")
    rows = [
        common
        | {
            "node_id": user_id,
            "parent_id": parent,
            "role": "user",
            "text": turn.user,
            "on_spine": True,
            "induced_profile": turn.induced.profile,
            "induced_personality": turn.induced.personality,
            "calls": turn.calls["user"],
        }
    ]
    for role in ("guided", "unguided"):
        rows.append(
            common
            | {
                "node_id": stable_id(start.tree_id, number, role),
                "parent_id": user_id,
                "role": role,
                "text": turn.replies[role],
                "on_spine": role == turn.next_role,
                "preferred": guided_preferred == (role == "guided"),
                "judge_probability": probability[role],
                "judge_shown_first": shown_first[role],
                "judge_agrees": turn.preference.agrees,
                "calls": turn.calls[role],
            }
        )
    return rows


def _error_row(
    start: TreeSeed, number: int, error: CallFailed, rows: list[dict[str, Any]]
) -> dict[str, Any]:
    spent = [call for row in rows for call in row["calls"]]
    return {
        "stage": "dialogue",
        "item_id": start.tree_id,
        "persona_id": start.persona.persona_id,
        "turn": number,
        "role": error.role,
        "kind": error.kind,
        "message": str(error),
        "calls": [*spent, error.call],
    }
