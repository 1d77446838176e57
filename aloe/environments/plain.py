"""One conversation with a person whose preferences a program checks; needs no library."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TypedDict, get_args

from aloe.verifiable import (
    PAIRS,
    Part,
    Person,
    beliefs,
    best_share,
    conversation,
    hinted,
    nats,
    share_met,
    twin_of,
    types,
)


class Info(TypedDict):
    """What the message that was answered, and those before it, told."""

    hint: str | None
    """Kind that it hinted at; None if it praised, and in the first turn."""
    hinted: tuple[str, ...]
    """Kinds that have been hinted at so far, by the first time."""
    nats: float
    """Log of how much likelier the person's type had become, at most that of the number of types;
    its mean over people is the information about the type in what they said."""
    best_share: float
    """The reward that the best reply to it could expect, in [0.5, 1]."""


class TwinsEnvironment:
    """A user who likes one kind of each of some pairs of opposites, and hints at what was missed.

    Seeds 2n and 2n + 1 are twins: they like the opposites and share all else. A policy that does
    not read the user has an expected reward of exactly one half over twins, at every turn.
    """

    def __init__(
        self,
        pairs: Sequence[str] = ("question", "tone", "self"),
        count: int = 2,
        turns: int = 6,
        wordings: Part = "train",
        topics: Part = "train",
    ) -> None:
        """Describe the people; `reset` chooses one.

        Args:
            pairs: of `aloe.verifiable.PAIRS`, each once; those that people may differ in.
            count: of how many of them each person likes a kind, 1 to ``len(pairs)``.
            turns: replies of an episode, 1 or more.
            wordings: hints and praise of "train" or "heldout"; no sentence is in both.
            topics: what is told of, in the same way.

        Raises:
            ValueError: an argument is out of its range.
        """
        if unknown := set(pairs) - set(PAIRS):
            raise ValueError(f"pairs: no {sorted(unknown)}, expected some of {sorted(PAIRS)}")
        if len(set(pairs)) != len(pairs):
            raise ValueError("pairs: one stands twice")
        if not 1 <= count <= len(pairs):
            raise ValueError(f"count: {count}, expected 1 to {len(pairs)}, the number of pairs")
        if turns < 1:
            raise ValueError(f"turns: {turns}, expected 1 or more")
        for name, part in (("wordings", wordings), ("topics", topics)):
            if part not in get_args(Part):
                raise ValueError(f"{name}: {part!r}, expected one of {get_args(Part)}")
        self.turns = turns
        self._wordings, self._topics = wordings, topics
        self._types = types(pairs, count)
        self._person: Person | None = None
        self._replies: list[str] = []

    @property
    def person(self) -> Person:
        """Who is talked with.

        Raises:
            RuntimeError: before `reset`.
        """
        if self._person is None:
            raise RuntimeError("reset() comes first")
        return self._person

    def reset(self, seed: int) -> str:
        """Begin a conversation.

        Args:
            seed: any integer; decides the person, each type as likely, and all that is drawn.

        Returns:
            The user's first message.
        """
        twin_id = f"twins-{seed // 2}"
        kinds = random.Random(f"{twin_id}/kinds").choice(self._types)
        if seed % 2:
            kinds = twin_of(kinds)
        self._person = Person(twin_id, kinds, self._wordings, self._topics)
        self._replies = []
        return conversation(self._person, [])[-1].text

    def step(self, reply: str) -> tuple[str | None, float, bool, Info]:
        """Answer the user.

        Args:
            reply: as the user reads it, without thoughts and control tokens; an empty one meets
                nothing.

        Returns:
            The user's next message, None after the last turn; the share of the user's preferences
            that the reply meets, in [0, 1]; whether it was the last turn; what was known when the
            reply was given.

        Raises:
            RuntimeError: before `reset`, or after the last turn.
        """
        person = self.person
        if len(self._replies) == self.turns:
            raise RuntimeError(f"all {self.turns} turns are over, reset() begins anew")
        steps = conversation(person, self._replies)
        belief = beliefs(self._types, steps, self._replies)[-1]
        info = Info(
            hint=steps[-1].hint,
            hinted=hinted(steps),
            nats=nats(self._types, belief, person.kinds),
            best_share=best_share(belief),
        )
        self._replies.append(reply)
        done = len(self._replies) == self.turns
        said = None if done else conversation(person, self._replies)[-1].text
        return said, share_met(person.kinds, reply, ""), done, info
