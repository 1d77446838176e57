"""One turn: the user speaks, what was revealed is noted, replies are written and judged."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass
from typing import Any

from aloe.config import DialogueConfig
from aloe.dialogue.branches import ReplyRole
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
from aloe.verifiable import hinted, share_met


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
    hint: str | None = None
    """Kind of `aloe.verifiable` that the user was to hint at, if a program plans its turns."""


@dataclass(frozen=True)
class SelectedTurn:
    """A turn of which one of several replies of one role is selected."""

    user: Answer[str]
    induced: Answer[Induced]
    role: ReplyRole
    replies: list[Answer[str]]
    met: list[float]
    """Of each reply the share of what was hinted at so far that it meets; 0 if nothing was."""
    exemplary: list[bool]
    """Of each reply whether something was hinted at, and it meets all of that."""
    chosen: int
    """The reply that the conversation goes on with."""
    hint: str | None


async def hold_selected_turn(
    persona: Persona,
    history: list[Message],
    engines: Mapping[str, Engine],
    config: DialogueConfig,
    seed: int,
    prompts: Prompts = BUILT_IN,
) -> SelectedTurn:
    """Let the user speak after ``history``, sample replies, and choose by what was hinted at.

    One of the best goes on, drawn by seed, of equals one that ended by itself; with the probability
    ``config.select.slips`` any does.

    Args:
        engines: by role (user, inducer, and guided or unguided).
        seed: of this turn; sample i > 0 of a reply derives its own.

    Raises:
        CallFailed: one call had no usable answer in ``config.tries`` tries.
    """
    select = config.select
    assert select is not None
    role: ReplyRole = "guided" if select.guided else "unguided"
    tries, sampling = config.tries, config.sampling
    user, heard = await _opened(persona, history, engines, config, seed, prompts)
    note = await induce(
        engines["inducer"], persona, heard, config.induction_max_tokens, tries, seed, prompts
    )
    told = note.value if select.guided else None
    replies = await together(
        *(
            reply(engines[role], role, heard, told, sampling, tries, sample_seed, prompts)
            for sample_seed in sample_seeds(seed, select.samples)
        )
    )
    steps = persona.planned(heard)
    known = hinted(steps)
    met = [share_met(known, answer.value, persona.profile) for answer in replies]
    merits = [(share, answer.ended) for share, answer in zip(met, replies, strict=True)]
    best = [number for number, merit in enumerate(merits) if merit == max(merits)]
    draw = random.Random(derive_seed(seed, "select"))
    slips = draw.random() < select.slips
    chosen = draw.choice(range(len(replies)) if slips else best)
    exemplary = [bool(known) and share == 1 for share in met]
    return SelectedTurn(
        user, note, role, replies, met, exemplary, chosen, steps[-1].hint if steps else None
    )


async def _opened(
    persona: Persona,
    history: list[Message],
    engines: Mapping[str, Engine],
    config: DialogueConfig,
    seed: int,
    prompts: Prompts,
) -> tuple[Answer[str], list[Message]]:
    """What the user says after ``history``, and the conversation with it."""
    user = await say_user(
        engines["user"], persona, history, config.sampling, config.tries, seed, prompts
    )
    return user, [*history, {"role": "user", "content": user.value}]


def sample_seeds(seed: int, samples: int) -> list[int]:
    """The seed of each of several replies to one message; the first has the turn's own."""
    return [derive_seed(seed, "sample", i) if i else seed for i in range(samples)]


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
    user, heard = await _opened(persona, history, engines, config, seed, prompts)
    seeds = sample_seeds(seed, config.samples)

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
    steps = persona.planned(heard)
    return Turn(user, note, pairs, steps[-1].hint if steps else None)


async def together(*work: Coroutine[Any, Any, Any]) -> list[Any]:
    """Results of coroutines that run at once; the first that fails cancels the others."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(part) for part in work]
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from failures
    return [task.result() for task in tasks]
