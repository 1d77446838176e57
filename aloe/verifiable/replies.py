"""Replies without a model, which meet the kinds that are asked for: what policies are held against.

A constant, a random and an ideal policy, and an oracle (issue 19).
"""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from typing import Literal

from aloe.verifiable.checks import OPPOSITE, PAIRS
from aloe.verifiable.knowledge import beliefs, best_reply, types
from aloe.verifiable.person import Person, conversation

ProgramPolicy = Literal["constant", "random", "ideal", "oracle"]
"""Always the same reply; kinds drawn anew for each; what the conversation tells, by Bayes' rule;
what the persona likes."""

_OPENINGS = {
    ("casual", "own_stories"): ("I think that's good news", "I guess it's one of those days"),
    ("casual", "never_self"): ("That's good news", "Well, it's one of those days"),
    ("formal", "own_stories"): ("I think that is good news", "I call that one of those days"),
    ("formal", "never_self"): ("That is good news", "Well, this is one of those days"),
}
_MORE = (
    "and such small things make a whole week better",
    "and a quiet evening with a cup of tea after it would be just right",
)
_QUESTIONS = ("how did it go", "what comes next", "how long did it take")


def reply_that_meets(kinds: Collection[str], draw: random.Random) -> str:
    """A reply that meets these kinds; of the other pairs one is drawn."""
    wanted = {pair: next((kind for kind in pair if kind in kinds), None) for pair in PAIRS.values()}
    is_met = {kind or draw.choice(pair) for pair, kind in wanted.items()}
    register = "casual" if "casual" in is_met else "formal"
    voice = "own_stories" if "own_stories" in is_met else "never_self"
    said = draw.choice(_OPENINGS[register, voice])
    if "long" in is_met:
        said = ", ".join([said, *_MORE])
    mark = "!" if "exclaims" in is_met else "."
    if "asks" in is_met:
        return f"{said}{mark} {draw.choice(_QUESTIONS).capitalize()}?"
    return f"{said}{mark}"


def program_reply(
    policy: ProgramPolicy,
    person: Person,
    replies: Sequence[str],
    pairs: Sequence[str],
    seed: int,
) -> str:
    """What one of the policies answers after a conversation.

    Args:
        person: only the oracle looks at what it likes; the ideal policy reads what it has said.
        replies: all before this one.
        pairs: groups of `PAIRS` of which people like ``len(person.kinds)``.
        seed: of the random policy.
    """
    if policy == "constant":
        return reply_that_meets(_first_kinds(pairs), random.Random(0))
    if policy == "random":
        draw = random.Random(seed)
        return reply_that_meets([draw.choice(PAIRS[pair]) for pair in pairs], draw)
    if policy == "oracle":
        return reply_that_meets(person.kinds, random.Random(seed))
    every = types(pairs, len(person.kinds))
    said = conversation(person, replies)
    return reply_that_meets(best_reply(beliefs(every, said, replies)[-1]), random.Random(seed))


def _first_kinds(pairs: Sequence[str]) -> list[str]:
    return [kind for kind in OPPOSITE if any(PAIRS[pair][0] == kind for pair in pairs)]
