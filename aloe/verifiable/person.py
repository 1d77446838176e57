"""A user without a model: it tells everyday things, and hints at what the last reply missed.

What it says depends on who it is and on the replies alone. So whoever has the replies knows what
was hinted at, exactly: the notes of `hinted` and the knowledge of `aloe.verifiable.knowledge`.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from aloe.verifiable.checks import CHECKS, OPPOSITE
from aloe.verifiable.wordings import Part, about, praise, topics, wordings


@dataclass(frozen=True)
class Person:
    """Somebody who likes one kind of each of some pairs of opposites."""

    twin_id: str
    """Seeds all that is drawn for this person, and for the twin, who likes the opposites."""
    kinds: tuple[str, ...]
    """Kinds of `aloe.verifiable.checks.OPPOSITE`, at most one of each pair."""
    wordings: Part = "train"
    """Which wordings its hints and its praise have."""
    topics: Part = "train"
    """Which things it tells of."""


@dataclass(frozen=True)
class Step:
    """What a person says in one turn."""

    topic: str
    """The everyday sentence."""
    remark: str
    """The hint or the praise before it; empty in the first turn."""
    hint: str | None
    """Kind that is hinted at; None if nothing was missed, and in the first turn."""

    @property
    def praise(self) -> bool:
        """Whether the last reply missed nothing."""
        return self.hint is None and bool(self.remark)

    @property
    def text(self) -> str:
        return f"{self.remark} {self.topic}".strip()


def twin_of(kinds: Sequence[str]) -> tuple[str, ...]:
    """What the twin likes."""
    return tuple(OPPOSITE[kind] for kind in kinds)


def missed(kinds: Sequence[str], reply: str) -> list[str]:
    """Kinds that a reply does not meet, in their order."""
    return [kind for kind in kinds if not CHECKS[kind].met(reply, "")]


def candidates(kinds: Sequence[str], reply: str, last: str | None) -> list[str]:
    """Kinds one of which is hinted at after a reply, each as likely: one that was missed, and not
    the one of the hint before if there is another; empty if nothing was missed."""
    lacking = missed(kinds, reply)
    return [kind for kind in lacking if kind != last] or lacking


def conversation(person: Person, replies: Sequence[str]) -> list[Step]:
    """What the person says up to the turn after the last of these replies: replies + 1 steps.

    Twins draw alike: where both hint at a pair, it is the same turn of the same draw.
    """
    told = list(topics(person.topics))
    random.Random(f"{person.twin_id}/topics").shuffle(told)
    steps = [Step(told[0].says, "", None)]
    last: str | None = None
    for turn, reply in enumerate(replies, start=1):
        draw = random.Random(f"{person.twin_id}/{turn}")
        which, wording = draw.random(), draw.random()
        possible = candidates(person.kinds, reply, last)
        last = possible[int(which * len(possible))] if possible else None
        said = wordings(last, person.wordings) if last else praise(person.wordings)
        remark = about(said[int(wording * len(said))], told[(turn - 1) % len(told)].thing)
        steps.append(Step(told[turn % len(told)].says, remark, last))
    return steps


def hinted(steps: Sequence[Step]) -> tuple[str, ...]:
    """Kinds that have been hinted at so far, by the first time."""
    return tuple(dict.fromkeys(step.hint for step in steps if step.hint))
