"""How well the replies of a rollout suit its personas, turn by turn: the teacher's curve."""

from __future__ import annotations

from typing import Any

import numpy as np

from aloe.config import Config
from aloe.evaluation.results import by_twins, on_scale, policy_numbers
from aloe.schema import NODES, derive_seed
from aloe.storage import Store
from aloe.storage.tables import read_parts
from aloe.verifiable import share_met

_COLUMNS = [
    "tree_id",
    "persona_id",
    "twin_id",
    "turn",
    "role",
    "on_spine",
    "text",
    "profile",
    "preferences",
]


def rollout_levels(config: Config, store: Store) -> dict[str, Any]:
    """AL(k) and its rise of the replies that conversations went on with, slips among them.

    The intervals are over pairs of twins; conversations that ended early are left out.

    Returns:
        See `aloe.evaluation.results.policy_numbers`.
    """
    shares: dict[str, dict[int, float]] = {}
    twins: dict[str, str] = {}
    for nodes in read_parts(store, "dialogue/nodes", NODES, _COLUMNS):
        for row in nodes:
            if row["role"] == "user" or not row["on_spine"]:
                continue
            twins[row["persona_id"]] = row["twin_id"]
            case = shares.setdefault(row["persona_id"], {})
            case[row["turn"]] = share_met(row["preferences"], row["text"], row["profile"])
    turns = config.dialogue.turns
    whole = {
        persona: on_scale(np.array([case[turn] for turn in range(1, turns + 1)]))
        for persona, case in shares.items()
        if len(case) == turns
    }
    settings = config.evaluation
    return policy_numbers(
        by_twins(whole, twins),
        settings.bootstrap_samples,
        settings.confidence,
        derive_seed(config.run.seed, "bootstrap"),
    )
