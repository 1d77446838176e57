"""Preferences that a program can check: exact as a reward and as an alignment level.

A persona may hold some of them. The simulated user reads them as part of its personality and hints
at them, it never states them; a reply's score is the share of them that it meets (issue 6).

Some kinds come in pairs of opposites, of which every reply that says anything meets exactly one:
what suits a persona is then wrong for its twin, and nothing suits everyone (issue 19).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from aloe.verifiable.words import words

Test = Callable[[str, str], bool]
"""Whether a reply that says something meets a kind, given the persona's profile."""


@dataclass(frozen=True)
class Check:
    """One kind of preference."""

    group: str
    """A persona holds at most one kind of a group: the others would contradict it."""
    words: str
    """How the personality tells of it, from the verb on."""
    test: Test
    note: str = ""
    """How notes on the persona tell of it, plainly; only of kinds that have an opposite."""

    def met(self, reply: str, profile: str) -> bool:
        """Whether a reply meets it; an empty one meets nothing."""
        return bool(reply.strip()) and self.test(reply, profile)


_EMOJI = re.compile(r"[\U0001F300-\U0001FAFF\u2600-\u27BF]|[:;]-?[)D]")
_LIKES = "likes a reply that"
_SELF = re.compile(r"\b(i|my|mine|myself)\b", re.IGNORECASE)
_YOU = re.compile(r"\b(you|your|yours|yourself)\b", re.IGNORECASE)
_CONTRACTION = re.compile(r"\w['’](s|t|re|ve|ll|d|m)\b", re.IGNORECASE)
_POLITE = re.compile(r"\b(please|thanks|thank you|glad|welcome|happy to)\b", re.IGNORECASE)
_AGREEING = re.compile(
    r"(yes|yeah|yep|sure|right|exactly|absolutely|of course|totally|true|definitely)\b",
    re.IGNORECASE,
)
_CARING = re.compile(r"\b(sorry|feel|feeling|understand|sounds|must be|hope)\b", re.IGNORECASE)
_CONTENT = 6
"""Letters from which on a word of the profile counts as one that says something."""
LONG = 20
"""Words from which on a reply is long."""


def _picks_up(reply: str, profile: str) -> bool:
    telling = {word for word in words(profile) if len(word) >= _CONTENT}
    return not telling.isdisjoint(words(reply))


def _opposites(group: str, one: Check, other: str, told: str, note: str) -> dict[str, Check]:
    """The opposite of a kind: met by every reply that does not meet that one."""
    return {other: Check(group, told, lambda reply, profile: not one.test(reply, profile), note)}


_LONG = Check(
    "length",
    "wants answers with some substance",
    lambda reply, _: len(words(reply)) >= LONG,
    f"{_LIKES} is long and goes into detail",
)
_ASKS = Check(
    "question",
    "loves to be asked things",
    lambda reply, _: "?" in reply,
    f"{_LIKES} asks a question",
)
_EXCLAIMS = Check(
    "tone",
    "warms to enthusiasm",
    lambda reply, _: "!" in reply,
    f"{_LIKES} is excited and has an exclamation mark",
)
_OWN_STORIES = Check(
    "self",
    "wants friends who talk of themselves",
    lambda reply, _: bool(_SELF.search(reply)),
    f"{_LIKES} tells something of the friend, with the word I",
)
_CASUAL = Check(
    "register",
    "likes loose, spoken language",
    lambda reply, _: bool(_CONTRACTION.search(reply)),
    f"{_LIKES} is casual, with short forms such as it's",
)

CHECKS: dict[str, Check] = {
    **_opposites(
        "length",
        _LONG,
        "short",
        "loses interest in long messages",
        f"{_LIKES} is very short",
    ),
    "long": _LONG,
    "asks": _ASKS,
    **_opposites(
        "question",
        _ASKS,
        "asks_nothing",
        "hates being questioned",
        f"{_LIKES} asks no question",
    ),
    "exclaims": _EXCLAIMS,
    **_opposites(
        "tone",
        _EXCLAIMS,
        "calm",
        "finds loud people tiring",
        f"{_LIKES} is calm, without exclamation marks",
    ),
    "emoji": Check(
        "emoji", "misses smileys in a plain message", lambda r, _: bool(_EMOJI.search(r))
    ),
    "about_them": Check(
        "them", "likes to be the topic", lambda reply, _: len(_YOU.findall(reply)) >= 2
    ),
    "own_stories": _OWN_STORIES,
    **_opposites(
        "self",
        _OWN_STORIES,
        "never_self",
        "dislikes friends who talk of themselves",
        f"{_LIKES} never says I or my",
    ),
    "polite": Check("manners", "cares for good manners", lambda r, _: bool(_POLITE.search(r))),
    "agrees": Check(
        "agreement", "wants to hear agreement first", lambda r, _: bool(_AGREEING.match(r.strip()))
    ),
    "caring": Check("care", "looks for sympathy", lambda reply, _: bool(_CARING.search(reply))),
    "figures": Check("figures", "trusts numbers", lambda r, _: any(c.isdigit() for c in r)),
    **_opposites(
        "register",
        _CASUAL,
        "formal",
        "likes careful language",
        f"{_LIKES} has no short forms such as it's",
    ),
    "casual": _CASUAL,
    "picks_up": Check("memory", "likes it when friends remember their life", _picks_up),
}

PAIRS: dict[str, tuple[str, str]] = {
    "question": ("asks", "asks_nothing"),
    "tone": ("exclaims", "calm"),
    "self": ("own_stories", "never_self"),
    "length": ("long", "short"),
    "register": ("casual", "formal"),
}
"""Groups of opposites."""

OPPOSITE: dict[str, str] = {
    kind: other for one, two in PAIRS.values() for kind, other in ((one, two), (two, one))
}


def in_words(preferences: Sequence[str]) -> str:
    """A sentence of the personality; empty without preferences."""
    if not preferences:
        return ""
    *first, last = [CHECKS[kind].words for kind in preferences]
    listed = f"{', '.join(first)} and {last}" if first else last
    return f"In a chat: {listed}."


def share_met(preferences: Sequence[str], reply: str, profile: str) -> float:
    """Share of the preferences that a reply meets, in [0, 1]; 0 without preferences.

    Args:
        profile: of the persona; "picks_up" looks for its words.
    """
    if not preferences:
        return 0.0
    return sum(CHECKS[kind].met(reply, profile) for kind in preferences) / len(preferences)
