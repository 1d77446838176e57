"""How much the users of a benchmark have told of themselves, and how well it could be used."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa

from aloe.config import Config
from aloe.evaluation.results import SCALE, by_twins, policy_numbers
from aloe.roles import persona_of
from aloe.schema import derive_seed
from aloe.verifiable import beliefs, best_share, nats, types

Row = dict[str, Any]


def knowable(config: Config, scores: pa.Table, heldout: Iterable[Row]) -> dict[str, Any]:
    """Of each policy's conversations what an ideal observer of them knows by turn (issue 19).

    Exact, as it is known which of several missed kinds a planned user hints at, and how likely; of
    a model that speaks after a plan it is what was planned.

    Args:
        scores: rows of `aloe.schema.SCORES`.
        heldout: rows of PERSONAS that were met.

    Returns:
        ``{"entropy": nats, "policies": {name: {"nats": curve, "best": curve}}}``. A curve has a
        number with its interval per turn: nats of information about the type in the user's
        messages up to that turn, and AL*, the best level that a reply to them can have, on the
        judge's scale.
    """
    twins, settings = config.personas.twins, config.evaluation
    every = types(twins.pairs, twins.count)
    people = {row["persona_id"]: row for row in heldout}
    pairs = {name: row["twin_id"] for name, row in people.items()}
    replies: dict[str, dict[str, dict[int, str]]] = {}
    for row in scores.select(["policy", "persona_id", "turn", "reply"]).to_pylist():
        case = replies.setdefault(row["policy"], {}).setdefault(row["persona_id"], {})
        case[row["turn"]] = row["reply"]
    lowest, highest = SCALE
    found: dict[str, Any] = {"entropy": float(np.log(len(every))), "policies": {}}
    for policy, cases in replies.items():
        condition = settings.condition(policy)
        assert condition.wordings is not None and condition.topics is not None
        told, best = {}, {}
        for name, case in cases.items():
            person = persona_of(people[name], True, condition.wordings, condition.topics)
            said = [case[turn] for turn in sorted(case)]
            known = beliefs(every, person.planned_after(said[:-1]), said)
            told[name] = np.array([nats(every, b, person.preferences) for b in known])
            best[name] = np.array([lowest + (highest - lowest) * best_share(b) for b in known])
        found["policies"][policy] = {
            key: policy_numbers(
                by_twins(values, pairs),
                settings.bootstrap_samples,
                settings.confidence,
                derive_seed(config.run.seed, "bootstrap"),
            )["al"]
            for key, values in (("nats", told), ("best", best))
        }
    return found
