"""A small check that profiles hold no traits and personalities no occupations (paper, section 2.1).

It catches plain slips of a model, not every paraphrase.
"""

from __future__ import annotations

import re
from typing import Literal

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


def off_topic(kind: Kind, text: str) -> str | None:
    """The first word of ``text`` that its kind of persona part must not hold, or None."""
    found = _FORBIDDEN[kind].search(text)
    return found.group().lower() if found else None
