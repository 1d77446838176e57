"""Dialogues of the policy in reinforcement learning, look by look."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import Any

from aloe.schema import DIALOGUES
from aloe.storage.store import Store

_FOLDER = "training/ppo/dialogues"
SHOWN = 10
"""Dialogues of each look on the page."""


@dataclass(frozen=True)
class Episode:
    """One dialogue: rows of `aloe.schema.DIALOGUES`, turn by turn."""

    turns: list[dict[str, Any]]

    @property
    def reward(self) -> float:
        """Mean reward of its replies."""
        return float(sum(turn["reward"] for turn in self.turns) / len(self.turns))


@dataclass(frozen=True)
class Look:
    """What the policy said after ``step`` updates."""

    step: int
    episodes: list[Episode]


def read_looks(store: Store) -> list[Look]:
    """The first dialogues of each look, which are with the same personas every time."""
    found = []
    for name in store.names(_FOLDER):
        rows = store.read_table(f"{_FOLDER}/{name}", DIALOGUES).to_pylist()
        episodes = [Episode(list(turns)) for _, turns in groupby(rows, lambda row: row["dialogue"])]
        if rows:
            found.append(Look(rows[0]["step"], episodes[:SHOWN]))
    return found
