"""Conversations that are given (``dialogue.start``): what was said before a tree goes on from it.

    dialogue/conversations.parquet   what the files hold (CONVERSATIONS)
    dialogue/starts.parquet          one row per tree: the number of its conversation (STARTS)

A conversation that names a persona goes with that one; of several for one persona one is drawn by
seed, and who has none starts from nothing. Where none names a persona they are given out in order,
over and over.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from hashlib import blake2b

import numpy as np

from aloe.config import Config
from aloe.dialogue.log import STAGE
from aloe.dialogue.parts import Plan
from aloe.engines import Message
from aloe.errors import UserError
from aloe.given import Conversation, read_conversations
from aloe.progress import say
from aloe.schema import CONVERSATIONS, PERSONAS, STARTS, derive_seed
from aloe.storage import Store
from aloe.storage.slices import read_column, read_slice
from aloe.storage.tables import new_table

_CONVERSATIONS = f"{STAGE}/conversations.parquet"
_STARTS = f"{STAGE}/starts.parquet"
_NONE = -1


def check_start(config: Config) -> str:
    """A hash of what the given conversations say; empty without any.

    Raises:
        UserError: a file cannot be read, or a row is no conversation that can be gone on with.
    """
    if not config.dialogue.start:
        return ""
    digest = blake2b(digest_size=8)
    for conversation in _read(config):
        digest.update(repr((conversation.persona_id, conversation.messages)).encode())
    return digest.hexdigest()


def write_starts(config: Config, store: Store, plan: Plan) -> None:
    """Write which conversation each tree goes on from, once.

    Raises:
        UserError: see `check_start`; or no conversation goes with any persona of the rollout.
    """
    if not config.dialogue.start or store.exists(_STARTS):
        return
    named: list[str] = []
    with new_table(store, _CONVERSATIONS, CONVERSATIONS) as add:
        for conversation in _read(config):
            if conversation.persona_id is not None:
                named.append(conversation.persona_id)
            add(
                [
                    {
                        "conversation_id": conversation.conversation_id,
                        "persona_id": conversation.persona_id,
                        "messages": list(conversation.messages),
                    }
                ]
            )
    if named:
        chosen = _by_persona(config, store, plan, named)
    else:
        count = len(read_column(store, _CONVERSATIONS, CONVERSATIONS, "conversation_id"))
        chosen = [tree % count for tree in range(plan.trees)]
    store.write_table(_STARTS, [{"conversation": number} for number in chosen], STARTS)


def histories(store: Store, plan: Plan, part: int) -> list[list[Message]]:
    """What was said before each tree of a part."""
    trees = len(plan.personas(part))
    if not store.exists(_STARTS):
        return [[] for _ in range(trees)]
    first = part * plan.part_size
    rows = np.arange(first, first + trees, dtype=np.int64)
    numbers = read_slice(store, _STARTS, STARTS, rows)["conversation"].to_numpy()
    wanted = np.unique(numbers[numbers != _NONE]).astype(np.int64)
    messages: dict[int, list[Message]] = {_NONE: []}
    if len(wanted):
        found = read_slice(store, _CONVERSATIONS, CONVERSATIONS, wanted)["messages"].to_pylist()
        messages |= dict(zip(wanted.tolist(), found, strict=True))
    return [messages[number] for number in numbers.tolist()]


def _read(config: Config) -> Iterator[Conversation]:
    """The conversations of ``dialogue.start``; all name a persona, or none."""
    names: bool | None = None
    for conversation in read_conversations(config.dialogue.start):
        if len(conversation.messages) % 2:
            raise UserError(
                f"{conversation.place}: ends with the user's message, expected the assistant's"
            )
        if conversation.persona_id is None and conversation.profile:
            raise UserError(
                f"{conversation.place}: a persona without persona_id, expected the id of one of "
                "the run's"
            )
        if names is None:
            names = conversation.persona_id is not None
        if names != (conversation.persona_id is not None):
            raise UserError(f"{conversation.place}: expected persona_id in all rows or in none")
        yield conversation


def _by_persona(config: Config, store: Store, plan: Plan, named: list[str]) -> list[int]:
    """Number of the conversation of each tree, by the persona that each conversation names."""
    of_persona: dict[str, list[int]] = {}
    for number, persona in enumerate(named):
        of_persona.setdefault(persona, []).append(number)
    ids = read_column(store, "personas/personas.parquet", PERSONAS, "persona_id")
    rolled_out = [ids[row].as_py() for first, last in plan.rows for row in range(first, last + 1)]
    chosen = [
        random.Random(derive_seed(config.run.seed, "start", persona)).choice(of_persona[persona])
        if persona in of_persona
        else _NONE
        for persona in rolled_out
    ]
    used = sum(number != _NONE for number in chosen)
    if not used:
        raise UserError(
            f"dialogue.start: no conversation names a persona that is rolled out, expected ids "
            f"such as {rolled_out[0]}"
        )
    say(f"{STAGE}: {used} of {plan.trees} trees go on from {used} of {len(named)} conversations")
    return chosen
