"""Given whole personas become the personas table: checked, divided by seed, written row by row.

The files are read twice and never held: at first hashes of their texts decide who goes where.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np

from aloe.config import Config
from aloe.errors import UserError
from aloe.personas.duplicates import Hashes, hash_of, hash_of_words
from aloe.personas.liking import likings
from aloe.personas.splits import BENCHMARK, LEFT_OUT, SPLITS, TRAIN, VALIDATION, Ints, divide
from aloe.personas.whole import WholePersona, persona_line, read_personas
from aloe.schema import PERSONAS, stable_id
from aloe.storage import Store
from aloe.storage.tables import new_table
from aloe.verifiable import in_words


@dataclass(frozen=True)
class Given:
    """What the files of given personas hold."""

    digest: str
    """Hash of all that they say."""
    splits: Ints
    """Split of each row, see `aloe.personas.splits`; of a row that is there before, left out."""
    repeated: int
    """Rows with the texts of one before."""
    each: int = 1
    """Personas that each row becomes: two where there are twins."""

    @property
    def talking(self) -> int:
        """Personas for dialogue."""
        return self.each * int(np.isin(self.splits, (TRAIN, VALIDATION)).sum())

    @property
    def tested(self) -> int:
        """Personas for the benchmark."""
        return self.each * int((self.splits == BENCHMARK).sum())

    def counts(self) -> dict[str, int]:
        """For the manifest."""
        split = Counter(SPLITS[number] for number in self.splits)
        return {
            "personas": self.talking + self.tested,
            **{f"{name}_personas": self.each * split[name] for name in sorted(SPLITS[TRAIN:])},
            "repeated_personas": self.repeated,
            "left_out_personas": split[SPLITS[LEFT_OUT]] - self.repeated,
        }


def look_at_given(config: Config) -> Given:
    """Read all given personas and divide them.

    Raises:
        UserError: a file cannot be read, rows are not of the form, two have the same id, or nothing
            would be left to train on.
    """
    settings = config.personas
    digest, ids, texts, fresh = blake2b(digest_size=8), Hashes(), array("Q"), array("b")
    whole = Hashes()
    for persona in read_personas(settings.given):
        digest.update(persona_line(persona).encode())
        fresh.append(whole.add(hash_of(f"{persona.profile}\n{persona.personality}")))
        if not fresh[-1]:
            continue
        if not ids.add(hash_of(persona_id(persona))):
            raise UserError(f"personas.given: two personas have the id {persona_id(persona)}")
        texts.append(hash_of_words(persona.profile))
        texts.append(hash_of_words(persona.personality) if persona.personality else 0)
    splits = np.zeros(len(fresh), np.int8)
    splits[np.array(fresh, bool)] = divide(
        np.array(texts, np.uint64).reshape(-1, 2),
        settings.heldout_personas,
        settings.max_personas,
        config.preferences.validation_share,
        config.run.seed,
    )
    each = 2 if settings.twins.count else 1
    return Given(digest.hexdigest(), splits, len(fresh) - sum(fresh), each)


def write_given(config: Config, store: Store, given: Given) -> None:
    """Write ``personas/personas.parquet``, those of the benchmark at its end."""
    tested: list[dict[str, Any]] = []
    row_group = config.dialogue.trees_per_part(given.talking)  # read part by part
    with new_table(store, "personas/personas.parquet", PERSONAS, row_group) as add:
        for number, row in _table_rows(config, given):
            if number == BENCHMARK:
                tested.append(row)
            else:
                add([row])
        add(tested)


def persona_id(persona: WholePersona) -> str:
    """The given id; without one a hash of the texts."""
    return persona.given_id or stable_id(persona.profile, persona.personality)


def _table_rows(config: Config, given: Given) -> Iterator[tuple[int, dict[str, Any]]]:
    seed = config.run.seed
    personas = read_personas(config.personas.given)
    for number, persona in zip(given.splits.tolist(), personas, strict=True):
        if number == LEFT_OUT:
            continue
        for liking in likings(persona_id(persona), config.personas, seed):
            told = f"{persona.personality} {in_words(liking.preferences)}"
            yield (
                number,
                {
                    "persona_id": liking.persona_id,
                    "profile": persona.profile,
                    "personality": told.strip(),
                    "preferences": list(liking.preferences),
                    "twin_id": liking.twin_id,
                    "split": SPLITS[number],
                },
            )
