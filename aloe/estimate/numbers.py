"""From what a few items took to what many will take: pure arithmetic.

An item is a tree, a case or a request to the writer. Its numbers are one row of a sample, float64
(items, 6): calls, prompt tokens, completion tokens, US dollars, seconds along its longest chain of
calls, seconds of all turns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Row = Mapping[str, Any]

CALLS, PROMPT, COMPLETION, USD, PATH, BUSY = range(6)
RESAMPLES = 1000
COVERAGE = 0.95


@dataclass(frozen=True)
class Range:
    """A number and how sure it is; ``low`` and ``high`` are None where a single item was held."""

    value: float
    low: float | None
    high: float | None


def spread(
    samples: Sequence[Floats], seed: int, total: Callable[[Sequence[Floats]], Floats]
) -> list[Range]:
    """Totals with the 95 % percentile interval over resamples of the items.

    Of two or three items that is the range from all as the cheapest to all as the dearest; it is
    about these items, and knows nothing of what none of them shows.

    Args:
        samples: float64 (items, 6) each; every one is resampled on its own.
        total: from samples to (numbers,).
    """
    value = total(samples)
    if any(len(sample) < 2 for sample in samples):
        return [Range(float(number), None, None) for number in value]
    rng = np.random.default_rng(seed)
    drawn = [
        total([sample[rng.integers(len(sample), size=len(sample))] for sample in samples])
        for _ in range(RESAMPLES)
    ]
    tail = (1 - COVERAGE) / 2
    low, high = np.quantile(np.stack(drawn), [tail, 1 - tail], axis=0)
    return [Range(*map(float, numbers)) for numbers in zip(value, low, high, strict=True)]


def of_calls(calls: Iterable[Row]) -> Floats:
    """Calls, tokens and dollars of rows of `aloe.schema.CALL`, (4,)."""
    sums = np.zeros(4)
    for call in calls:
        sums += [
            call["tries"],
            call["prompt_tokens"],
            call["completion_tokens"],
            call["cost_usd"],
        ]
    return sums


def of_tree(rows: Iterable[Row], branches: Sequence[int]) -> Floats:
    """A whole tree, (6,), from rows of `aloe.schema.NODES` of some of its branches, one at least of
    each turn.

    Args:
        branches: how many the whole tree has of each turn.
    """
    turns: dict[int, dict[int, list[Row]]] = {}
    for row in rows:
        turns.setdefault(row["turn"], {}).setdefault(row["branch"], []).extend(row["calls"])
    numbers = np.zeros(6)
    for turn, calls_by_branch in turns.items():
        held = list(calls_by_branch.values())
        seconds = float(np.mean([_longest_chain(calls) for calls in held]))
        numbers[:PATH] += branches[turn - 1] * sum(map(of_calls, held)) / len(held)
        numbers[PATH] += seconds
        numbers[BUSY] += branches[turn - 1] * seconds
    return numbers


def _longest_chain(calls: Iterable[Row]) -> float:
    """Seconds of a turn: user, note, guided reply and verdict wait for each other."""
    slowest: dict[str, float] = {}
    for call in calls:
        slowest[call["role"]] = max(slowest.get(call["role"], 0.0), call["seconds"])
    slowest.pop("unguided", None)
    return sum(slowest.values())


def in_a_row(calls: Sequence[Row]) -> Floats:
    """Of calls that wait for each other, as in a case or in a request, (6,)."""
    seconds = sum(call["seconds"] for call in calls)
    return np.array([*of_calls(calls), seconds, seconds])


def requests_needed(accepted: Floats, wanted: int, most: int) -> float:
    """Requests to the writer until so many more texts have joined a pool.

    Args:
        accepted: texts that joined by each request that was held, (requests,).
        wanted: texts that are still to join.
        most: requests after which growth stops in any case.
    """
    rate = float(np.mean(accepted))
    return float(most) if rate * most <= wanted else wanted / rate


def hours(
    items: float, path_s: float, busy_s: float, at_once: int, engines: int, probed_at_once: int
) -> tuple[float, float]:
    """Hours if engines are as fast for everyone who may be open as they were in the probe, and if
    they do no more in a second than they did there.

    Args:
        path_s, busy_s: of one item, see the module.
        at_once: items that may be open at once in the whole stage.
        engines: engines that share the work; in the probe there was one.
        probed_at_once: items that were open in the probe.
    """
    fast = items * path_s / max(min(items, at_once), 1)
    slow = items * busy_s / max(probed_at_once * engines, 1)
    return fast / 3600, max(fast, slow) / 3600
