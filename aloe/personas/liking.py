"""Which checkable preferences a persona holds, by seed; and its twin, which holds the opposites."""

from __future__ import annotations

import random
from typing import NamedTuple

from aloe.config import PersonasConfig, TwinsConfig, VerifiableConfig
from aloe.schema import derive_seed, stable_id
from aloe.verifiable import CHECKS, PAIRS, twin_of


class Liking(NamedTuple):
    """What one persona likes; of twins there are two for the same texts."""

    persona_id: str
    preferences: tuple[str, ...]
    """Kinds of `aloe.verifiable.CHECKS`."""
    twin_id: str | None = None


def likings(persona_id: str, config: PersonasConfig, seed: int) -> list[Liking]:
    """One for a persona, or two where there are twins.

    Args:
        persona_id: of the texts; twins have ids of their own.
        seed: of the run.
    """
    if not config.twins.count:
        return [Liking(persona_id, draw_preferences(persona_id, config.verifiable, seed))]
    one = draw_type(persona_id, config.twins, seed)
    twin_id = stable_id("twins", persona_id, seed)
    return [Liking(stable_id(persona_id, *kinds), kinds, twin_id) for kinds in (one, twin_of(one))]


def draw_type(persona_id: str, config: TwinsConfig, seed: int) -> tuple[str, ...]:
    """One kind of each of ``config.count`` pairs, in the order of ``config.pairs``."""
    draw = random.Random(derive_seed(seed, "twins", persona_id))
    chosen = draw.sample(range(len(config.pairs)), config.count)
    return tuple(draw.choice(PAIRS[config.pairs[place]]) for place in sorted(chosen))


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
