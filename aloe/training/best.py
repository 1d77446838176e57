"""Which of two checkpoints is the better one."""

from __future__ import annotations

from collections.abc import Mapping

_LOWER = {"loss"}


def improves(metric: str, found: Mapping[str, float], best: Mapping[str, float] | None) -> bool:
    """Whether ``found`` is better than ``best``; of equal ones the earlier stays.

    Args:
        metric: loss is better when lower, all others when higher.
        best: None if there is none yet.
    """
    if best is None:
        return True
    if metric in _LOWER:
        return found[metric] < best[metric]
    return found[metric] > best[metric]
