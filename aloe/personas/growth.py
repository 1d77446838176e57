"""One pool while it grows: members, filter and decided rounds. No model, no clock, no files."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Literal, TypeVar

import numpy as np

from aloe.config import PersonasConfig, PoolGrowth
from aloe.personas.filter import Floats, SimilarityFilter
from aloe.personas.lexicon import Kind
from aloe.personas.writing import Outcome
from aloe.schema import derive_seed, stable_id

E = TypeVar("E", bound=Mapping[str, Any])
Stop = Literal["size", "saturation", "max_rounds"]

START = -1
"""Round of the texts that a pool starts with."""
START_SOURCES = ("seed", "file")
"""Where they come from, by request number."""


@dataclass(frozen=True)
class _Decided:
    candidates: int
    accepted: int


class GrowingPool:
    """The state that decides who joins; a function of the configuration and the decided rounds."""

    def __init__(self, kind: Kind, config: PersonasConfig, seed: int) -> None:
        self.kind: Kind = kind
        self.texts: list[str] = []
        """Members in the order in which they joined."""
        self.round = START
        """The round that is open."""
        self._config, self._seed = config, seed
        self._known: set[bytes] = set()  # digests: texts that were refused need not stay
        self._filter: SimilarityFilter | None = None
        self._recent: deque[_Decided] = deque(maxlen=config.saturation_rounds)

    def stopped(self) -> Stop | None:
        """Why no further round is wanted, or None.

        Saturation: over the last ``saturation_rounds`` rounds less than ``saturation_rate`` of the
        candidates was accepted, or there were none.
        """
        if self.round == START:
            return None
        if len(self.texts) >= growth_of(self.kind, self._config).size:
            return "size"
        if len(self._recent) == self._config.saturation_rounds:
            candidates = sum(decided.candidates for decided in self._recent)
            accepted = sum(decided.accepted for decided in self._recent)
            if accepted < self._config.saturation_rate * max(candidates, 1):
                return "saturation"
        return "max_rounds" if self.round >= self._config.max_rounds else None

    def request_seed(self, request: int) -> int:
        """Seed of a request of the open round."""
        return derive_seed(self._seed, self.kind, self.round, request)

    def shown(self, request: int) -> list[str]:
        """Members that a request of the open round shows as examples."""
        draw = random.Random(derive_seed(self.request_seed(request), "shown"))
        return draw.sample(self.texts, min(self._config.shown, len(self.texts)))

    def decide(
        self, outcomes: Sequence[Outcome], vectors: Sequence[Floats]
    ) -> list[dict[str, Any]]:
        """Close the open round: filter its candidates in request order.

        Args:
            outcomes: one per request.
            vectors: per request (n, width) unit vectors of its n candidates without a verdict, see
                `undecided`.

        Returns:
            Rows of `aloe.schema.ROUNDS`; `replay` of them leads to the same state.
        """
        rows: list[dict[str, Any]] = [
            {
                "pool": self.kind,
                "round": self.round,
                "request": request,
                **outcome,
                "candidates": [
                    {"similarity": None, "embedding": None, **candidate}
                    for candidate in outcome["candidates"]
                ],
            }
            for request, outcome in enumerate(outcomes)
        ]
        fresh = [
            (entry, vector)
            for row, of_row in zip(rows, vectors, strict=True)
            for entry, vector in zip(_without_verdict(row["candidates"]), of_row, strict=True)
            if self._first_seen(entry)
        ]
        if fresh:
            self._judge([entry for entry, _ in fresh], np.stack([vector for _, vector in fresh]))
        self._remember(rows)
        return rows

    def replay(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Take over a round that was decided before; rounds come in order."""
        vectors = [
            entry["embedding"]
            for row in rows
            for entry in row["candidates"]
            if entry["verdict"] == "accepted"
        ]
        if vectors:
            self._filter_of(len(vectors[0])).add(np.asarray(vectors, np.float32))
        self._remember(rows)

    def _first_seen(self, entry: dict[str, Any]) -> bool:
        digest = _digest(entry["text"])
        if digest in self._known:
            entry["verdict"] = "repeated"
            return False
        self._known.add(digest)
        return True

    def _judge(self, entries: list[dict[str, Any]], embeddings: Floats) -> None:
        kept, highest = self._filter_of(embeddings.shape[1]).accept(embeddings)
        # Whoever the configuration brings joins in any number; the model fills up to the size.
        size = growth_of(self.kind, self._config).size
        room = len(entries) if self.round == START else size - len(self.texts)
        for entry, keep, similarity, vector in zip(entries, kept, highest, embeddings, strict=True):
            entry["similarity"] = float(similarity)
            entry["verdict"] = "similar" if not keep else "accepted" if room > 0 else "surplus"
            if entry["verdict"] == "accepted":
                entry["embedding"] = vector.tolist()
                room -= 1

    def _remember(self, rows: Sequence[Mapping[str, Any]]) -> None:
        entries = [entry for row in rows for entry in row["candidates"]]
        joined = [entry["text"] for entry in entries if entry["verdict"] == "accepted"]
        self.texts += joined
        compared = (entry["text"] for entry in entries if entry["similarity"] is not None)
        self._known.update(map(_digest, compared))
        if self.round != START:
            self._recent.append(_Decided(len(entries), len(joined)))
        self.round += 1

    def _filter_of(self, width: int) -> SimilarityFilter:
        if self._filter is None:
            self._filter = SimilarityFilter(self._config.threshold, width)
        return self._filter


def pool_of(
    kind: Kind, config: PersonasConfig, seed: int, rounds: Iterable[Sequence[Mapping[str, Any]]]
) -> GrowingPool:
    """The pool that these rounds lead to; they come in order."""
    pool = GrowingPool(kind, config, seed)
    for rows in rounds:
        pool.replay(rows)
    return pool


def undecided(outcome: Outcome) -> list[str]:
    """Texts of an outcome that the pool has to decide on."""
    return [candidate["text"] for candidate in _without_verdict(outcome["candidates"])]


def growth_of(kind: Kind, config: PersonasConfig) -> PoolGrowth:
    """The pool's own section of the configuration."""
    growth = config.profiles if kind == "profile" else config.personalities
    assert growth is not None, "given personas have no pools"
    return growth


def pool_rows(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows of `aloe.schema.POOL`, not held out yet, from rows of ROUNDS in order."""
    return [
        {
            "entry_id": stable_id(row["pool"], entry["text"]),
            "pool": row["pool"],
            "text": entry["text"],
            "source": START_SOURCES[row["request"]] if row["round"] == START else "model",
            "round": row["round"],
            "similarity": entry["similarity"],
            "heldout": False,
            "embedding": entry["embedding"],
        }
        for row in rows
        for entry in row["candidates"]
        if entry["verdict"] == "accepted"
    ]


def _without_verdict(candidates: Sequence[E]) -> list[E]:
    return [candidate for candidate in candidates if not candidate["verdict"]]


def _digest(text: str) -> bytes:
    return blake2b(text.encode(), digest_size=16).digest()
