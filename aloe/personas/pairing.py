"""From two pools to personas in three splits, by seed alone (paper, section 2.1 and benchmark)."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from aloe.config import PersonasConfig
from aloe.errors import UserError
from aloe.personas.lexicon import KINDS, Kind
from aloe.personas.liking import Liking, likings
from aloe.schema import derive_seed, stable_id
from aloe.verifiable import in_words


@dataclass(frozen=True)
class Member:
    """One entry of a pool."""

    entry_id: str
    text: str


@dataclass(frozen=True)
class Persona:
    """A profile and a personality, in one of the splits train, validation and benchmark."""

    profile: Member
    personality: Member
    split: str
    liking: Liking | None = None
    """What it likes that a program can check; None before that is drawn."""

    @property
    def text_id(self) -> str:
        """The same of all who share both texts."""
        return stable_id(self.profile.text, self.personality.text)

    @property
    def persona_id(self) -> str:
        return self.liking.persona_id if self.liking else self.text_id

    @property
    def preferences(self) -> tuple[str, ...]:
        """Kinds of `aloe.verifiable.CHECKS`."""
        return self.liking.preferences if self.liking else ()

    def row(self) -> dict[str, Any]:
        """A row of `aloe.schema.PERSONAS`."""
        return {
            "persona_id": self.persona_id,
            "profile_id": self.profile.entry_id,
            "personality_id": self.personality.entry_id,
            "profile": self.profile.text,
            "personality": f"{self.personality.text} {in_words(self.preferences)}".strip(),
            "preferences": list(self.preferences),
            "twin_id": self.liking.twin_id if self.liking else None,
            "split": self.split,
        }


def pair_pools(
    profiles: Sequence[Member],
    personalities: Sequence[Member],
    config: PersonasConfig,
    validation_share: float,
    seed: int,
) -> list[Persona]:
    """Pair the pools.

    Held-out profiles x held-out personalities are the benchmark; no other persona holds any of
    them. Every other profile is paired with ``personalities_per_profile`` distinct other
    personalities (all, if there are fewer). The validation split is drawn among those personas,
    at least one where there are two or more. Twins share both texts: each of those personas is
    then two, next to each other and in the same split.

    Raises:
        UserError: a pool is too small to hold out what the configuration asks for.
    """
    check_sizes({"profile": len(profiles), "personality": len(personalities)}, config)
    tested_profiles, other_profiles = _hold_out(profiles, config.heldout_profiles, "profile", seed)
    tested_personalities, other_personalities = _hold_out(
        personalities, config.heldout_personalities, "personality", seed
    )
    draw = random.Random(derive_seed(seed, "pairs"))
    count = min(config.personalities_per_profile, len(other_personalities))
    pairs = [
        (profile, personality)
        for profile in other_profiles
        for personality in draw.sample(other_personalities, count)
    ]
    if config.max_personas is not None and config.max_personas < len(pairs):
        pairs = _keep_order(pairs, config.max_personas, draw)
    validation = _validation(len(pairs), validation_share, seed)
    personas = [
        Persona(*pair, "validation" if index in validation else "train")
        for index, pair in enumerate(pairs)
    ] + [
        Persona(profile, personality, "benchmark")
        for profile in tested_profiles
        for personality in tested_personalities
    ]
    return [
        replace(persona, liking=liking)
        for persona in personas
        for liking in likings(persona.text_id, config, seed)
    ]


def count_personas(sizes: dict[Kind, int], config: PersonasConfig) -> tuple[int, int]:
    """Personas that `pair_pools` makes of pools of these sizes: for dialogue, for the benchmark."""
    others = sizes["personality"] - config.heldout_personalities
    pairs = (sizes["profile"] - config.heldout_profiles) * min(
        config.personalities_per_profile, others
    )
    talking = pairs if config.max_personas is None else min(pairs, config.max_personas)
    each = 2 if config.twins.count else 1
    return each * talking, each * config.heldout_profiles * config.heldout_personalities


def check_sizes(sizes: dict[Kind, int], config: PersonasConfig) -> None:
    """Whether pools of these sizes leave something to train on.

    Raises:
        UserError: naming the key whose value is too large.
    """
    for kind, key, heldout in zip(
        KINDS,
        ("heldout_profiles", "heldout_personalities"),
        (config.heldout_profiles, config.heldout_personalities),
        strict=True,
    ):
        if sizes[kind] <= heldout:
            raise UserError(
                f"personas.{key}: {heldout} are to be held out of a pool of {sizes[kind]}; "
                f"expected at most {sizes[kind] - 1}"
            )


def _hold_out(
    members: Sequence[Member], count: int, kind: Kind, seed: int
) -> tuple[list[Member], list[Member]]:
    chosen = set(
        random.Random(derive_seed(seed, "heldout", kind)).sample(range(len(members)), count)
    )
    held = [member for index, member in enumerate(members) if index in chosen]
    return held, [member for index, member in enumerate(members) if index not in chosen]


def _keep_order(
    pairs: list[tuple[Member, Member]], count: int, draw: random.Random
) -> list[tuple[Member, Member]]:
    return [pairs[index] for index in sorted(draw.sample(range(len(pairs)), count))]


def _validation(personas: int, share: float, seed: int) -> set[int]:
    if personas < 2:
        return set()
    count = min(max(1, round(share * personas)), personas - 1)
    return set(random.Random(derive_seed(seed, "validation")).sample(range(personas), count))
