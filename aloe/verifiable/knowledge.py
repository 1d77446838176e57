"""What a conversation with a program user tells of it, exactly (issue 19).

A type is the kinds that somebody likes: one of each of ``count`` pairs of opposites. Before the
first word all are as likely. A hint rules out who does not like what is hinted at, praise rules out
whom the reply missed, and which of several missed kinds was hinted at tells of the others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations, product

from aloe.verifiable.checks import PAIRS, share_met
from aloe.verifiable.person import Step, candidates

Belief = Mapping[tuple[str, ...], float]
"""Type -> its probability; they sum to 1."""


def types(pairs: Sequence[str], count: int) -> list[tuple[str, ...]]:
    """All types of people who like one of each of ``count`` of these pairs."""
    return [
        tuple(kinds)
        for chosen in combinations(pairs, count)
        for kinds in product(*(PAIRS[pair] for pair in chosen))
    ]


def beliefs(
    every: Sequence[tuple[str, ...]], steps: Sequence[Step], replies: Sequence[str]
) -> list[Belief]:
    """What can be known after each step: one belief per step, by Bayes' rule.

    Args:
        every: types, each as likely before the first word.
        steps: what the user has said, from `aloe.verifiable.person.conversation`.
        replies: the answers to them; that to the last is not needed.

    Raises:
        ValueError: nobody of these types would have said that.
    """
    weights = {kinds: 1 / len(every) for kinds in every}
    found: list[Belief] = [weights]
    last: str | None = None
    for step, reply in zip(steps[1:], replies, strict=False):
        weights = {
            kinds: weight * likelihood
            for kinds, weight in weights.items()
            if (likelihood := _likelihood(kinds, reply, last, step.hint))
        }
        total = sum(weights.values())
        if not total:
            raise ValueError(f"nobody of {len(every)} types says {step.text!r} after {reply!r}")
        weights = {kinds: weight / total for kinds, weight in weights.items()}
        found.append(weights)
        last = step.hint
    return found


def nats(every: Sequence[tuple[str, ...]], belief: Belief, kinds: tuple[str, ...]) -> float:
    """Log of how much likelier a person's type has become; its mean over people is the information
    about the type in what they said, in nats."""
    return math.log(belief[kinds] * len(every))


def best_reply(belief: Belief) -> tuple[str, ...]:
    """Of each pair the kind that is likelier to be liked; the first one if both are as likely."""
    liked = _liked(belief)
    pairs = [pair for pair in PAIRS.values() if any(kind in liked for kind in pair)]
    return tuple(max(pair, key=lambda kind: liked.get(kind, 0.0)) for pair in pairs)


def expected_share(belief: Belief, reply: str) -> float:
    """Share of the preferences that a reply meets, expected, in [0, 1]."""
    return sum(weight * share_met(kinds, reply, "") for kinds, weight in belief.items())


def best_share(belief: Belief) -> float:
    """Share of the preferences that `best_reply` meets, expected: no reply can do better."""
    liked = _liked(belief)
    count = len(next(iter(belief)))
    return sum(max(liked.get(kind, 0.0) for kind in pair) for pair in PAIRS.values()) / count


def _liked(belief: Belief) -> dict[str, float]:
    """Kind -> probability that the person likes it."""
    liked: dict[str, float] = {}
    for kinds, weight in belief.items():
        for kind in kinds:
            liked[kind] = liked.get(kind, 0.0) + weight
    return liked


def _likelihood(kinds: tuple[str, ...], reply: str, last: str | None, hint: str | None) -> float:
    """Probability that somebody of a type hints so (None: praises) after a reply."""
    possible = candidates(kinds, reply, last)
    if not possible:
        return float(hint is None)
    return (hint in possible) / len(possible)
