"""A small check that profiles hold no traits and personalities no occupations (paper, section 2.1).

It catches plain slips of a model, not every paraphrase.
"""

from __future__ import annotations

import re
from typing import Literal

import regex

from aloe.personas.repeats import UNSPACED
from aloe.roles.prompts import Prompts

Kind = Literal["profile", "personality"]
KINDS: tuple[Kind, ...] = ("profile", "personality")

_TRAITS = """
    adventurous affectionate aggressive agreeable ambitious anxious arrogant assertive bold
    caring charismatic charming cheerful clever compassionate competitive confident
    conscientious considerate creative curious cynical dependable determined disciplined
    easygoing empathetic energetic enthusiastic extroverted extraverted friendly funny
    generous gentle grumpy hardworking honest humble humorous idealistic imaginative impatient
    impulsive insecure introspective introverted jealous kind-hearted
    kindhearted lazy loyal melancholic modest moody narcissistic neurotic open-minded optimistic
    outgoing outspoken passionate perfectionist pessimistic playful polite proud rebellious
    reliable reserved resilient resourceful rude sarcastic selfish selfless sensitive
    shy sincere sociable stubborn superstitious sympathetic talkative thoughtful timid tolerant
    trustworthy unfriendly vain warm-hearted wise witty
"""

_OCCUPATIONS = """
    accountant actor actress architect artist astronaut attorney banker barber
    barista bartender biologist bookkeeper builder butcher carpenter cashier chef chemist
    cleaner clerk consultant dentist designer developer doctor driver economist editor
    electrician engineer farmer firefighter fisherman florist gardener hairdresser historian
    housekeeper janitor journalist lawyer lecturer librarian mechanic musician nurse
    painter paramedic pharmacist photographer physician pilot plumber policeman politician
    professor programmer psychologist receptionist sailor salesman
    salesperson saleswoman scientist seamstress secretary shopkeeper singer soldier surgeon
    tailor teacher technician therapist translator veterinarian waiter waitress welder writer
"""


IN_PROMPTS: dict[Kind, str] = {
    "profile": "not_in_profiles.txt",
    "personality": "not_in_personalities.txt",
}
"""Files of ``personas.prompts`` with what its kind must not hold, a word or phrase per line."""


def _pattern(words: str, *phrases: str) -> re.Pattern[str]:
    alternatives = "|".join([*words.split(), *phrases])
    return re.compile(rf"\b(?:{alternatives})\b", re.IGNORECASE)


_FORBIDDEN: dict[Kind, re.Pattern[str]] = {
    "profile": _pattern(_TRAITS, "personality", "sense of humou?r", "introvert", "extrovert"),
    "personality": _pattern(
        " ".join(f"{word}s?" for word in _OCCUPATIONS.split()),
        "works? (?:as|at)",
        "employed",
        "by profession",
    ),
}


class Lexicon:
    """What profiles and personalities must not hold: the built-in words, a run's own, or nothing.

    The built-in words are English, so they say nothing of another language.
    """

    def __init__(self, prompts: Prompts) -> None:
        """``prompts``: of the run, with the words in files beside its templates (`IN_PROMPTS`)."""
        self._own = {kind: _own(prompts.own_text("personas", IN_PROMPTS[kind])) for kind in KINDS}
        self._english = prompts.language.code == "en"

    def knows(self, kind: Kind) -> bool:
        """Whether anything is looked for."""
        return self._own[kind] is not None or self._english

    def off_topic(self, kind: Kind, text: str) -> str | None:
        """The first of its words that a text holds, or None."""
        own = self._own[kind]
        if own is not None:
            found = own.search(text)
            return found.group().lower() if found else None
        return off_topic(kind, text) if self._english else None


def _own(text: str | None) -> regex.Pattern[str] | None:
    """Words of a file, whole ones where the script has spaces between them; None without any."""
    words = [word.strip() for word in (text or "").splitlines() if word.strip()]
    edges = [
        (r"" if regex.match(UNSPACED, word) else r"(?<!\w)")
        + regex.escape(word)
        + (r"" if regex.search(UNSPACED + "$", word) else r"(?!\w)")
        for word in words
    ]
    return regex.compile("|".join(edges), regex.IGNORECASE) if words else None


def off_topic(kind: Kind, text: str) -> str | None:
    """The first English word of a text that its kind of persona part must not hold, or None."""
    found = _FORBIDDEN[kind].search(text)
    return found.group().lower() if found else None
