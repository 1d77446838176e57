"""First words of facts and traits, for writers too small to find them (`personas.openings`).

The prompt names them and the grammar enforces them. A grammar alone does harm: a model that is
forced to spell what it did not expect picks odd tokens, and goes on oddly.
"""

from __future__ import annotations

import random
from typing import Any

from aloe.personas.lexicon import Kind

_REST = r"( [a-zA-Z][a-zA-Z'-]*){1,8}\."
"""How a sentence goes on: up to eight plain words. A small model would ramble otherwise."""

_FACTS: tuple[tuple[str, ...], ...] = (
    (
        "Drives a bus in",
        "Sells fruit at",
        "Repairs bicycles in",
        "Works night shifts in",
        "Teaches history in",
        "Is a nurse at",
        "Studies law in",
        "Cleans offices in",
        "Builds houses in",
        "Runs a bakery in",
        "Is a retired sailor from",
        "Catches fish near",
        "Writes software for",
        "Guards a museum in",
        "Grows coffee near",
        "Is a dentist in",
        "Delivers letters in",
        "Cooks in a hotel in",
        "Cuts hair in",
        "Breeds horses near",
        "Translates books from",
        "Studies medicine in",
        "Looks for work in",
        "Edits a newspaper in",
        "Sings opera in",
        "Flies helicopters over",
        "Sells carpets in",
        "Paints houses in",
    ),
    (
        "Left school at sixteen and",
        "Studied music in",
        "Has a degree in",
        "Learned to read from",
        "Trained for two years as a",
        "Takes evening classes in",
        "Won a school prize for",
    ),
    (
        "Lives in a flat in",
        "Lives on a farm near",
        "Rents a room above",
        "Grew up by the sea in",
        "Shares a house with",
        "Moved last year to",
        "Lives in a village near",
        "Was born in",
    ),
    (
        "Is married with two",
        "Lives alone with a",
        "Has three brothers who",
        "Is a mother of",
        "Is a father of",
        "Looks after an old",
        "Is divorced and has",
        "Is engaged to a",
    ),
    (
        "Plays chess with",
        "Sings in a choir at",
        "Collects old",
        "Paints pictures of",
        "Plays football with",
        "Reads books about",
        "Knits scarves for",
        "Dances to",
        "Hikes in",
        "Watches films about",
        "Plays the guitar at",
        "Takes photographs of",
        "Swims in",
    ),
    (
        "Eats rice with",
        "Bakes bread for",
        "Drinks green tea with",
        "Cooks fish with",
        "Never eats",
        "Makes soup from",
        "Loves noodles with",
        "Grills meat for",
        "Eats dates and",
    ),
    (
        "Owns a small",
        "Drives an old",
        "Has a dog that",
        "Keeps chickens in",
        "Saves money for",
        "Bought a new",
        "Has a cat called",
        "Carries a",
        "Repaired an old",
        "Grows tomatoes on",
    ),
    (
        "Wakes at five to",
        "On Sundays visits",
        "Every summer travels to",
        "Walks at night along",
        "Calls home every",
        "Goes to the market for",
        "Takes the train to",
        "Prays before",
    ),
)
"""One of each group, in this order, then the age."""

_TRAITS = (
    "Talks for hours about",
    "Speaks slowly when",
    "Whispers when",
    "Jokes about everything but",
    "Laughs loudly at",
    "Cries easily over",
    "Brags about",
    "Grumbles about the",
    "Dreams of a life",
    "Is afraid of",
    "Hates it when people",
    "Trusts strangers who",
    "Never forgives people who",
    "Forgets names and",
    "Blushes when someone",
    "Sulks for days after",
    "Teases friends about",
    "Worries all night about",
    "Exaggerates every story about",
    "Stays calm when",
    "Loses patience with",
    "Asks strangers about",
    "Hides tears behind",
    "Apologises for",
    "Argues with everyone about",
    "Gives advice about",
    "Listens to people who",
    "Gets bored by",
    "Flirts with",
    "Respects people who",
    "Swears at",
    "Is stubborn about",
    "Is curious about",
    "Is ashamed of",
    "Is grateful for",
    "Is jealous of",
    "Is shy with",
    "Is rude to",
    "Is kind to",
    "Interrupts people who",
    "Mocks people who",
    "Cannot resist",
    "Feels lonely without",
    "Speaks softly to",
    "Insists on",
    "Giggles at",
    "Is proud of",
    "Tells the truth about",
    "Needs a long time to",
    "Makes quick decisions about",
    "Is full of energy when",
    "Believes in luck and",
    "Dislikes noise and",
    "Is strict about",
    "Takes jokes about",
    "Remembers every detail of",
)
"""Some of them, in any order."""
_TRAITS_DRAWN = 8
_SHOWN_WORDS = 3

_AGES = range(18, 85)


def draw_openings(kind: Kind, seed: int) -> list[str]:
    """First words of 8 or 9 sentences; a profile's last is its age and complete."""
    draw = random.Random(seed)
    if kind == "personality":
        return draw.sample(_TRAITS, _TRAITS_DRAWN)
    return [*(draw.choice(group) for group in _FACTS), f"Is {draw.choice(_AGES)} years old."]


def openings_of(sentences: list[str]) -> list[str]:
    """The first words of sentences that are there: how an example shows what openings mean."""
    return [" ".join(sentence.split()[:_SHOWN_WORDS]) for sentence in sentences]


def guided_sentences(openings: list[str]) -> dict[str, Any]:
    """JSON schema of a list of sentences that begin with these openings, in this order."""
    patterns = [
        f"^{opening[:-1]}\\.$" if opening.endswith(".") else f"^{opening}{_REST}$"
        for opening in openings
    ]
    return {
        "type": "array",
        "prefixItems": [{"type": "string", "pattern": pattern} for pattern in patterns],
        "items": False,
        "minItems": len(patterns),
        "maxItems": len(patterns),
    }
