"""Percentile bootstrap over cases: how sure a number of the benchmark is.

Cases are drawn with replacement, whole: the turns of one conversation hang together. Every number
of the benchmark is a function of AL(1..K), so a resample is kept as its AL only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from aloe.evaluation.metrics import FloatArray, alignment_level

Statistic = Callable[[FloatArray], float | None]
"""A number made of AL, float64 (turns,); None where it is undefined."""

_CHUNK_INDICES = 1 << 22  # case numbers drawn at once: bounds memory, not the result


@dataclass(frozen=True)
class Estimate:
    """A number and its percentile interval, all on the scale of the statistic."""

    value: float | None
    """None when the statistic is undefined on the observed cases."""
    low: float | None
    """None when there is no value, or a single case: nothing can be said about its spread."""
    high: float | None
    undefined: int = 0
    """Resamples on which the statistic was undefined; they are not in the interval."""

    def as_dict(self) -> dict[str, float | None]:
        return {"value": self.value, "low": self.low, "high": self.high}


@dataclass(frozen=True)
class Resamples:
    """AL of the observed cases and of each resample of them."""

    observed: FloatArray
    """float64 (turns,)"""
    drawn: FloatArray
    """float64 (samples, turns); no samples when a single case was observed."""

    def estimate(self, statistic: Statistic, confidence: float = 0.95) -> Estimate:
        """The statistic with an interval of the given coverage."""
        return _interval(statistic(self.observed), map(statistic, self.drawn), confidence)

    def difference(
        self, baseline: Resamples, statistic: Statistic, confidence: float = 0.95
    ) -> Estimate:
        """The statistic here minus the baseline's, resample by resample.

        Both must come from `resample` with the same cases in the same order and the same seed: then
        a case that is hard for both cancels out. Undefined where either side is.
        """

        def minus(here: FloatArray, there: FloatArray) -> float | None:
            a, b = statistic(here), statistic(there)
            return None if a is None or b is None else a - b

        value = minus(self.observed, baseline.observed)
        return _interval(value, map(minus, self.drawn, baseline.drawn), confidence)


def resample(scores: FloatArray, samples: int, seed: int) -> Resamples:
    """Draw cases with replacement.

    Args:
        scores: float64 (cases, turns).
        samples: number of resamples.
        seed: the same seed, number of cases and number of samples draw the same cases.

    Raises:
        ValueError: no case, no turn, or a score that is not finite.
    """
    observed = alignment_level(scores)
    cases, turns = scores.shape
    if cases == 1:
        return Resamples(observed, np.empty((0, turns)))
    rng = np.random.default_rng(seed)
    drawn = np.empty((samples, turns))
    chunk = max(1, _CHUNK_INDICES // (cases * turns))
    for start in range(0, samples, chunk):
        rows = min(chunk, samples - start)
        picked = rng.integers(cases, size=(rows, cases))
        drawn[start : start + rows] = scores[picked].mean(axis=1)
    return Resamples(observed, drawn)


def _interval(value: float | None, drawn: Iterable[float | None], confidence: float) -> Estimate:
    values = list(drawn)
    defined = [number for number in values if number is not None]
    undefined = len(values) - len(defined)
    if value is None or not defined:
        return Estimate(value, None, None, undefined)
    tail = (1 - confidence) / 2
    low, high = np.quantile(defined, [tail, 1 - tail])
    return Estimate(value, float(low), float(high), undefined)
