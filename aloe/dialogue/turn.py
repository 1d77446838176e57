"""One turn: the user speaks, what was revealed is noted, replies are written and judged."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass
from typing import Any

from aloe.config import DialogueConfig
from aloe.engines import Engine, Message
from aloe.roles import (
    BUILT_IN,
    Answer,
    Induced,
    Persona,
    Preference,
    Prompts,
    induce,
    prefer,
    reply,
    say_user,
)
from aloe.schema import derive_seed


@dataclass(frozen=True)
class Pair:
    """A guided and an unguided reply to the same message, and how they compare."""

    guided: Answer[str]
    unguided: Answer[str]
    preference: Preference
    judged: tuple[dict[str, Any], dict[str, Any]]
    """The judge's calls: guided shown first, unguided shown first."""


@dataclass(frozen=True)
class Turn:
    """All that was said and thought in one turn, before it becomes rows."""

    user: Answer[str]
    induced: Answer[Induced]
    pairs: list[Pair]
    """One per sample."""


async def hold_turn(
    persona: Persona,
    history: list[Message],
    engines: Mapping[str, Engine],
    config: DialogueConfig,
    seed: int,
    prompts: Prompts = BUILT_IN,
) -> Turn:
    """Let the user speak after ``history`` and both assistants answer.

    Args:
        engines: by role (user, inducer, guided, unguided, judge).
        seed: of this turn; sample i > 0 of a reply derives its own.

    Raises:
        CallFailed: one call had no usable answer in ``config.tries`` tries.
    """
    tries, sampling = config.tries, config.sampling
    user = await say_user(engines["user"], persona, history, sampling, tries, seed, prompts)
    heard: list[Message] = [*history, {"role": "user", "content": user.value}]
    seeds = [derive_seed(seed, "sample", i) if i else seed for i in range(config.samples)]

    async def compare(note: Induced, unguided: Answer[str], seed: int) -> Pair:
        guided = await reply(
            engines["guided"], "guided", heard, note, sampling, tries, seed, prompts
        )
        judge, one, other = engines["judge"], guided.value, unguided.value
        guided_first, unguided_first = await together(
            prefer(judge, persona, heard, one, other, tries, seed, prompts),
            prefer(judge, persona, heard, other, one, tries, seed, prompts),
        )
        preference = Preference(guided_first.value, 1 - unguided_first.value)
        return Pair(guided, unguided, preference, (guided_first.call, unguided_first.call))

    # The unguided replies do not wait for the note that the guided ones need.
    note, *unguided = await together(
        induce(
            engines["inducer"], persona, heard, config.induction_max_tokens, tries, seed, prompts
        ),
        *(
            reply(
                engines["unguided"], "unguided", heard, None, sampling, tries, sample_seed, prompts
            )
            for sample_seed in seeds
        ),
    )
    pairs = await together(
        *(
            compare(note.value, answer, sample_seed)
            for answer, sample_seed in zip(unguided, seeds, strict=True)
        )
    )
    return Turn(user, note, pairs)


async def together(*work: Coroutine[Any, Any, Any]) -> list[Any]:
    """Results of coroutines that run at once; the first that fails cancels the others."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(part) for part in work]
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from failures
    return [task.result() for task in tasks]
