"""From scored turns to the numbers of the benchmark, each with its interval."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa

from aloe.evaluation.bootstrap import Resamples, Statistic, resample
from aloe.evaluation.metrics import (
    FloatArray,
    improvement_rate,
    normalized_improvement_rate,
    r_squared,
)

SCALE = (1, 5)
"""Lowest and highest score of the judge."""

Cases = Mapping[str, FloatArray]
"""Persona id, or twin id -> scores of one policy with them, float64 (turns,)."""
_TWINS = 2


def cases_by_policy(scores: pa.Table) -> dict[str, dict[str, FloatArray]]:
    """Group rows of `aloe.schema.SCORES`: policy -> persona id -> scores by turn.

    Only finished cases are stored, so each has all its turns.
    """
    return {
        policy: {
            persona: np.array([score for (score,) in case], dtype=np.float64)
            for persona, case in cases.items()
        }
        for policy, cases in by_turn(scores, ["score"]).items()
    }


def by_turn(scores: pa.Table, columns: list[str]) -> dict[str, dict[str, list[tuple[Any, ...]]]]:
    """Columns of rows of `aloe.schema.SCORES`: policy -> persona id -> their values by turn."""
    turns: dict[str, dict[str, dict[int, tuple[Any, ...]]]] = {}
    for row in scores.select(["policy", "persona_id", "turn", *columns]).to_pylist():
        case = turns.setdefault(row["policy"], {}).setdefault(row["persona_id"], {})
        case[row["turn"]] = tuple(row[column] for column in columns)
    return {
        policy: {persona: [case[turn] for turn in sorted(case)] for persona, case in cases.items()}
        for policy, cases in turns.items()
    }


def on_scale(share: FloatArray) -> FloatArray:
    """The judge's scores of replies that meet such shares of what is liked."""
    lowest, highest = SCALE
    return np.asarray(lowest + (highest - lowest) * share, dtype=np.float64)


def by_twins(cases: Cases, twins: Mapping[str, str]) -> dict[str, FloatArray]:
    """Cases of twins as one: the mean of both, float64 (turns,), by twin id.

    What suits one twin is wrong for the other, so only both together say how good a reply is, and
    only whole pairs are drawn again. A case whose twin's has failed is left out.

    Args:
        twins: twin id by persona id; whoever is not in it stays a case of its own.
    """
    found: dict[str, list[FloatArray]] = {}
    for persona, scores in cases.items():
        found.setdefault(twins.get(persona, persona), []).append(scores)
    paired = set(twins.values())
    return {
        unit: np.mean(both, axis=0)
        for unit, both in found.items()
        if unit not in paired or len(both) == _TWINS
    }


def benchmark_results(
    policies: Mapping[str, Cases], baseline: str, samples: int, confidence: float, seed: int
) -> dict[str, Any]:
    """All numbers of the benchmark, as stored in the stage's manifest.

    Args:
        policies: finished cases of each policy, at least one for each.
        baseline: policy that the others are compared with on the cases that both finished.
        samples, confidence, seed: of the bootstrap; every policy's cases are drawn alike.

    Returns:
        ``{"baseline", "scale", "policies": {name: numbers}, "paired": {name: differences},
        "successive": {name: {"than": name, differences}}}``; a number is ``{"value", "low",
        "high"}``, None where undefined. Successive are two policies in their configured order,
        neither of them the baseline.
    """
    results: dict[str, Any] = {"baseline": baseline, "scale": list(SCALE)}
    results["policies"] = {
        name: policy_numbers(cases, samples, confidence, seed) for name, cases in policies.items()
    }

    def difference(name: str, other: str) -> dict[str, Any]:
        common = sorted(policies[name].keys() & policies[other].keys())
        if name == other or not common:
            return {}
        here, there = (
            resample(_matrix(policies[which], common), samples, seed) for which in (name, other)
        )
        return {
            key: here.difference(there, statistic, confidence).as_dict()
            for key, statistic in (("al_mean", _mean), ("ir", improvement_rate))
        }

    results["paired"] = {name: found for name in policies if (found := difference(name, baseline))}
    results["successive"] = {
        name: {"than": before, **found}
        for before, name in pairwise(policies)
        if baseline not in (before, name) and (found := difference(name, before))
    }
    return results


def policy_numbers(cases: Cases, samples: int, confidence: float, seed: int) -> dict[str, Any]:
    """AL(k) of at least one case and what follows from it; a single turn has no rise."""
    drawn = resample(_matrix(cases, sorted(cases)), samples, seed)

    def estimate(statistic: Statistic) -> dict[str, float | None]:
        return drawn.estimate(statistic, confidence).as_dict()

    numbers = {
        "cases": len(cases),
        "al": _curve(drawn, confidence),
        "al_mean": estimate(_mean),
    }
    if drawn.observed.size > 1:
        numbers |= {
            "ir": estimate(improvement_rate),
            "n_ir": estimate(normalized_improvement_rate),
            "r2": estimate(r_squared),
        }
    return numbers


def _curve(drawn: Resamples, confidence: float) -> list[dict[str, Any]]:
    levels = [drawn.estimate(partial(_at, k), confidence) for k in range(drawn.observed.size)]
    return [{"turn": k, **level.as_dict()} for k, level in enumerate(levels, start=1)]


def _at(k: int, al: FloatArray) -> float:
    return float(al[k])


def _mean(al: FloatArray) -> float:
    return float(al.mean())


def _matrix(cases: Cases, personas: list[str]) -> FloatArray:
    """Scores float64 (cases, turns), in the order of ``personas``."""
    return np.stack([cases[persona] for persona in personas])
