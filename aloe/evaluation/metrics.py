"""The numbers of the ALOE benchmark (arXiv 2410.03642, section 4): AL(k), IR, N-IR and R2.

A constant AL(1..K) has no normalised form: its N-IR and R2 are None, never 0 or NaN.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

# The mean of equal scores differs from them by rounding only; a span below this is no span.
_RELATIVE_ROUNDING = 1e-12


def alignment_level(scores: FloatArray) -> FloatArray:
    """AL(k): the mean score over all cases at turn k.

    Args:
        scores: float64 (cases, turns). A case without a score at some turn is not in it at all.

    Returns:
        float64 (turns,), on the scale of the scores.

    Raises:
        ValueError: no case, no turn, or a score that is not finite.
    """
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 2 or 0 in values.shape:
        raise ValueError(f"scores: expected (cases >= 1, turns >= 1), got {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError("scores: a score is missing; leave its case out as a whole")
    return np.asarray(values.mean(axis=0), dtype=np.float64)


def improvement_rate(al: FloatArray) -> float:
    """IR: the slope, per turn, of the least-squares line through AL(1..K), float64 (turns,)."""
    turns = _centred_turns(al)
    return float(turns @ al / (turns @ turns))


def normalized_levels(al: FloatArray) -> FloatArray | None:
    """N-AL(1..K), float64 (turns,): AL moved and scaled to [0, 1]; None when AL is constant."""
    low, high = float(np.min(al)), float(np.max(al))
    if high - low <= _RELATIVE_ROUNDING * max(abs(low), abs(high)):
        return None
    return np.asarray((al - low) / (high - low), dtype=np.float64)


def normalized_improvement_rate(al: FloatArray) -> float | None:
    """N-IR: the improvement rate of N-AL; None when AL, float64 (turns,), is constant."""
    levels = normalized_levels(al)
    return None if levels is None else improvement_rate(levels)


def r_squared(al: FloatArray) -> float | None:
    """Share of AL's variance over turns that its line explains, in [0, 1].

    The same for AL and N-AL, which differ by an affine map. None when AL is constant.
    """
    levels = normalized_levels(al)
    if levels is None:
        return None
    turns = _centred_turns(levels)
    deviations = levels - levels.mean()
    explained = (turns @ deviations) ** 2 / (turns @ turns)
    return min(float(explained / (deviations @ deviations)), 1.0)


def _centred_turns(al: FloatArray) -> FloatArray:
    if al.ndim != 1 or al.size < 2:
        raise ValueError(f"AL: expected at least two turns in one dimension, got {al.shape}")
    turns = np.arange(1, al.size + 1, dtype=np.float64)
    return np.asarray(turns - turns.mean(), dtype=np.float64)
