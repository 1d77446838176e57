"""What a policy makes of a hint: whether it reads it, and whether it remembers it (issue 19).

Whether it can do what is asked for is another question: a policy that is given exact notes
(``reads: notes``) need neither read nor remember.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from aloe.config import Config
from aloe.evaluation.metrics import FloatArray
from aloe.evaluation.policies import persona_under
from aloe.evaluation.results import by_turn, by_twins
from aloe.schema import derive_seed
from aloe.verifiable import CHECKS, Person, conversation

SKILLS = ("reads", "remembers", "untold")
"""Of the kinds that a user likes: hinted at in the message that is answered; hinted at before, and
not now; not hinted at so far."""

Row = dict[str, Any]
Counts = FloatArray
"""float64 (skills, 2): kinds that were met, and kinds."""


def skills(config: Config, scores: pa.Table, heldout: Iterable[Row]) -> dict[str, Any]:
    """Share of the kinds of each sort that replies meet, by policy.

    Args:
        scores: rows of `aloe.schema.SCORES`, of users whose hints are planned.
        heldout: rows of PERSONAS that were met.

    Returns:
        ``{policy: {skill: {"value", "low", "high"}}}``, None where there was no such kind. The
        intervals are percentiles of a bootstrap over pairs of twins.
    """
    settings = config.evaluation
    people = {row["persona_id"]: row for row in heldout}
    twins = {name: row["twin_id"] for name, row in people.items()}
    found = {}
    for policy, cases in by_turn(scores, ["reply"]).items():
        counts = {}
        for name, case in cases.items():
            persona = persona_under(config, policy, people[name])
            assert persona.plan is not None
            counts[name] = count_skills(persona.plan, [reply for (reply,) in case])
        whole = list(by_twins(counts, twins).values())
        found[policy] = _shares(
            np.stack(whole) if whole else np.zeros((1, len(SKILLS), 2)),
            settings.bootstrap_samples,
            settings.confidence,
            derive_seed(config.run.seed, "bootstrap"),
        )
    return found


def count_skills(person: Person, replies: Sequence[str]) -> Counts:
    """Kinds of each sort in one conversation, and how many of them were met."""
    counts = np.zeros((len(SKILLS), 2))
    known: set[str] = set()
    for step, reply in zip(conversation(person, replies[:-1]), replies, strict=True):
        for kind in person.kinds:
            sort = 0 if kind == step.hint else 1 if kind in known else 2
            counts[sort] += (CHECKS[kind].met(reply, ""), 1)
        known |= {step.hint} if step.hint else set()
    return counts


def _shares(
    counts: FloatArray, samples: int, confidence: float, seed: int
) -> Mapping[str, Mapping[str, float | None]]:
    """Shares over all units, ``counts`` float64 (units, skills, 2), with their intervals."""
    picked = np.random.default_rng(seed).integers(len(counts), size=(samples, len(counts)))
    drawn = counts[picked].sum(axis=1)
    tails = ((1 - confidence) / 2, (1 + confidence) / 2)
    found: dict[str, dict[str, float | None]] = {}
    for place, skill in enumerate(SKILLS):
        met, there = counts[:, place].sum(axis=0)
        if not there:
            found[skill] = dict.fromkeys(("value", "low", "high"))
            continue
        shares = drawn[:, place, 0] / np.where(drawn[:, place, 1], drawn[:, place, 1], np.nan)
        found[skill] = {"value": met / there, "low": None, "high": None}
        if len(counts) > 1:
            low, high = np.nanquantile(shares, tails)
            found[skill] |= {"low": float(low), "high": float(high)}
    return found
