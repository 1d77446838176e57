"""The persona pools and where each entry lies on a flat map."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from aloe.schema import POOL, derive_seed
from aloe.storage.store import Store

_FILES = {"profile": "personas/profiles.parquet", "personality": "personas/personalities.parquet"}
_MOST_SHOWN = 500
_SHOWN = ["text", "source", "round", "similarity", "heldout"]


@dataclass(frozen=True)
class Entry:
    """One member of a pool at its place on the map."""

    text: str
    source: str
    round: int
    similarity: float | None
    """Highest cosine to the pool when it joined."""
    heldout: bool
    x: float
    y: float


@dataclass(frozen=True)
class Pool:
    name: str
    entries: list[Entry]
    """At most 500, drawn by seed."""
    total: int
    explained: float
    """Share of the embeddings' variance that the map keeps."""


def read_pools(store: Store, seed: int) -> list[Pool]:
    """The pools that the run folder holds, each projected on its own two principal axes."""
    return [
        _read_pool(store, name, file, seed) for name, file in _FILES.items() if store.exists(file)
    ]


def _read_pool(store: Store, name: str, file: str, seed: int) -> Pool:
    rows = store.read_table(file, POOL, [*_SHOWN, "embedding"]).to_pylist()
    total = len(rows)
    if total > _MOST_SHOWN:
        rng = np.random.default_rng(derive_seed(seed, "report", name))
        rows = [rows[i] for i in sorted(rng.choice(total, _MOST_SHOWN, replace=False))]
    places, explained = project(np.array([row["embedding"] for row in rows], dtype=np.float64))
    entries = [
        Entry(**{key: row[key] for key in _SHOWN}, x=float(x), y=float(y))
        for row, (x, y) in zip(rows, places, strict=True)
    ]
    return Pool(name, entries, total, explained)


def project(vectors: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], float]:
    """Principal component analysis to two dimensions.

    Args:
        vectors: [entries, dimensions].

    Returns:
        Places [entries, 2], and the share of the variance that they keep (0 when there is none).
        Each axis points to where its largest entry in absolute value is positive.
    """
    places = np.zeros((len(vectors), 2))
    if len(vectors) < 2:
        return places, 0.0
    left, scale, _ = np.linalg.svd(vectors - vectors.mean(axis=0), full_matrices=False)
    kept = min(2, len(scale))
    places[:, :kept] = left[:, :kept] * scale[:kept]
    extremes = places[np.abs(places).argmax(axis=0), [0, 1]]
    places *= np.where(extremes < 0, -1.0, 1.0)
    variance = scale**2
    total = float(variance.sum())
    return places, float(variance[:2].sum() / total) if total else 0.0
