"""Preferences that a program can check: exact as a reward and as an alignment level.

A persona may hold some of them. The simulated user reads them as part of its personality and hints
at them, it never states them; a reply's score is the share of them that it meets (issue 6).
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from aloe.config import VerifiableConfig
from aloe.roles.text import words
from aloe.schema import derive_seed


@dataclass(frozen=True)
class Check:
    """One kind of preference."""

    group: str
    """A persona holds at most one kind of a group: the others would contradict it."""
    words: str
    """How the personality tells of it, from the verb on."""
    met: Callable[[str, str], bool]
    """Whether a reply meets it, given the persona's profile."""


_EMOJI = re.compile(r"[\U0001F300-\U0001FAFF\u2600-\u27BF]|[:;]-?[)D]")
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


def _picks_up(reply: str, profile: str) -> bool:
    telling = {word for word in words(profile) if len(word) >= _CONTENT}
    return not telling.isdisjoint(words(reply))


CHECKS: dict[str, Check] = {
    "short": Check(
        "length", "loses interest in long messages", lambda reply, _: 0 < len(words(reply)) <= 15
    ),
    "long": Check(
        "length", "wants answers with some substance", lambda reply, _: len(words(reply)) >= 30
    ),
    "asks": Check("question", "loves to be asked things", lambda reply, _: "?" in reply),
    "asks_nothing": Check("question", "hates being questioned", lambda reply, _: "?" not in reply),
    "exclaims": Check("tone", "warms to enthusiasm", lambda reply, _: "!" in reply),
    "calm": Check("tone", "finds loud people tiring", lambda reply, _: "!" not in reply),
    "emoji": Check(
        "emoji", "misses smileys in a plain message", lambda r, _: bool(_EMOJI.search(r))
    ),
    "about_them": Check(
        "them", "likes to be the topic", lambda reply, _: len(_YOU.findall(reply)) >= 2
    ),
    "own_stories": Check(
        "self", "wants friends who talk of themselves", lambda r, _: bool(_SELF.search(r))
    ),
    "never_self": Check(
        "self",
        "dislikes friends who talk of themselves",
        lambda reply, _: not _SELF.search(reply),
    ),
    "polite": Check("manners", "cares for good manners", lambda r, _: bool(_POLITE.search(r))),
    "agrees": Check(
        "agreement", "wants to hear agreement first", lambda r, _: bool(_AGREEING.match(r.strip()))
    ),
    "caring": Check("care", "looks for sympathy", lambda reply, _: bool(_CARING.search(reply))),
    "figures": Check("figures", "trusts numbers", lambda r, _: any(c.isdigit() for c in r)),
    "formal": Check(
        "register", "likes careful language", lambda reply, _: not _CONTRACTION.search(reply)
    ),
    "casual": Check(
        "register", "likes loose, spoken language", lambda r, _: bool(_CONTRACTION.search(r))
    ),
    "picks_up": Check("memory", "likes it when friends remember their life", _picks_up),
}


def draw_preferences(persona_id: str, config: VerifiableConfig, seed: int) -> tuple[str, ...]:
    """The kinds that a persona holds, no two of one group; in the order of `CHECKS`.

    Args:
        config: how many, among which; fewer where the groups do not suffice.
        seed: of the run.
    """
    draw = random.Random(derive_seed(seed, "verifiable", persona_id))
    groups: dict[str, list[str]] = {}
    for kind, check in CHECKS.items():
        if not config.kinds or kind in config.kinds:
            groups.setdefault(check.group, []).append(kind)
    chosen = draw.sample(sorted(groups), min(config.count, len(groups)))
    held = {draw.choice(groups[group]) for group in sorted(chosen)}
    return tuple(kind for kind in CHECKS if kind in held)


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
