"""A probe for what users let show: a classifier of their messages, trained on the run's dialogues.

For users who hint as they like no program knows what was said. What a classifier finds in messages
that it was not trained on is then a lower bound of what they tell.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from aloe.evaluation.metrics import FloatArray
from aloe.schema import NODES
from aloe.storage import Store
from aloe.storage.tables import read_parts
from aloe.verifiable import PAIRS

Probe = Callable[[Sequence[str]], dict[str, FloatArray]]
"""Texts -> P(the writer likes it) by kind, float64 (texts,); those of a pair sum to 1."""

_EVEN = 0.5
_FOLDS = 3
_STRENGTHS = (0.001, 0.01, 0.1, 0.3, 1.0, 3.0, 10.0)
_SURE = 1e-3
"""No probability is nearer to 0 or 1: one sure mistake would cost all that was learned."""


class Told(NamedTuple):
    """What somebody has said so far."""

    text: str
    preferences: tuple[str, ...]
    twin_id: str


def read_told(store: Store) -> list[Told]:
    """Of each conversation of the training split its user's messages, up to each turn."""
    told = []
    columns = ["tree_id", "turn", "role", "text", "on_spine", "preferences", "twin_id", "split"]
    for nodes in read_parts(store, "dialogue/nodes", NODES, columns):
        said: dict[str, dict[int, str]] = {}
        who: dict[str, tuple[tuple[str, ...], str]] = {}
        for row in nodes:
            if row["role"] == "user" and row["on_spine"] and row["split"] == "train":
                said.setdefault(row["tree_id"], {})[row["turn"]] = row["text"]
                who[row["tree_id"]] = (tuple(row["preferences"]), row["twin_id"])
        for tree, messages in said.items():
            turns = sorted(messages)
            for last in turns:
                text = " ".join(messages[turn] for turn in turns if turn <= last)
                told.append(Told(text, *who[tree]))
    return told


def train_probe(told: Sequence[Told], pairs: Sequence[str], seed: int) -> Probe:
    """Logistic regressions on words and pairs of words, one for each pair of opposite kinds.

    How far they are drawn towards even odds is chosen by what they find in the messages of twins
    that were left out. A pair of which nobody likes one of the kinds is even.
    """
    models = {}
    for pair in pairs:
        one, other = PAIRS[pair]
        known = [item for item in told if one in item.preferences or other in item.preferences]
        labels = [one in item.preferences for item in known]
        twins = [item.twin_id for item in known]
        if len(set(labels)) == 2 and len(set(twins)) >= _FOLDS:
            texts = [item.text for item in known]
            models[pair] = _search(seed).fit(texts, labels, groups=twins)

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


def _search(seed: int) -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, GroupKFold
    from sklearn.pipeline import Pipeline

    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    model = LogisticRegression(max_iter=1000, random_state=seed)
    return GridSearchCV(
        Pipeline([("words", words), ("model", model)]),
        {"model__C": list(_STRENGTHS)},
        scoring="neg_log_loss",
        cv=GroupKFold(_FOLDS),
    )
