"""A probe for what users let show: a classifier of their messages, trained on the run's dialogues.

For users who hint as they like no program knows what was said. What a classifier finds in messages
that it was not trained on is then a lower bound of what they tell.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from aloe.evaluation.metrics import FloatArray
from aloe.schema import NODES
from aloe.storage import Store
from aloe.storage.tables import read_parts
from aloe.verifiable import PAIRS

Probe = Callable[[Sequence[str]], dict[str, FloatArray]]
"""Texts -> P(the writer likes it) by kind, float64 (texts,); those of a pair sum to 1."""

_EVEN = 0.5
_SURE = 1e-3
"""No probability is nearer to 0 or 1: one sure mistake would cost all that was learned."""


class Told(NamedTuple):
    """What somebody has said so far."""

    text: str
    preferences: tuple[str, ...]


def read_told(store: Store) -> list[Told]:
    """Of each conversation of the training split its user's messages, up to each turn."""
    told = []
    columns = ["tree_id", "turn", "role", "text", "on_spine", "preferences", "split"]
    for nodes in read_parts(store, "dialogue/nodes", NODES, columns):
        said: dict[str, dict[int, str]] = {}
        likes: dict[str, tuple[str, ...]] = {}
        for row in nodes:
            if row["role"] == "user" and row["on_spine"] and row["split"] == "train":
                said.setdefault(row["tree_id"], {})[row["turn"]] = row["text"]
                likes[row["tree_id"]] = tuple(row["preferences"])
        for tree, messages in said.items():
            turns = sorted(messages)
            for last in turns:
                text = " ".join(messages[turn] for turn in turns if turn <= last)
                told.append(Told(text, likes[tree]))
    return told


def train_probe(told: Sequence[Told], pairs: Sequence[str], seed: int) -> Probe:
    """Logistic regressions on words and pairs of words, one for each pair of opposite kinds.

    A pair of which nobody likes one of the kinds is even.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    models = {}
    for pair in pairs:
        one, other = PAIRS[pair]
        texts = [
            (item.text, one in item.preferences)
            for item in told
            if one in item.preferences or other in item.preferences
        ]
        if len({label for _, label in texts}) == 2:
            model = make_pipeline(
                TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True),
                LogisticRegression(C=10.0, max_iter=1000, random_state=seed),
            )
            models[pair] = model.fit(*zip(*texts, strict=True))

    def probe(texts: Sequence[str]) -> dict[str, FloatArray]:
        found: dict[str, FloatArray] = {}
        for pair in pairs:
            one, other = PAIRS[pair]
            first = np.full(len(texts), _EVEN)
            if pair in models:
                model = models[pair]
                first = model.predict_proba(texts)[:, list(model.classes_).index(True)]
            found[one] = np.clip(first, _SURE, 1 - _SURE)
            found[other] = 1 - found[one]
        return found

    return probe
