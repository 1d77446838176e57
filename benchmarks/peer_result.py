"""What a peer's script tells dpo_step.py."""

from __future__ import annotations

import resource
from itertools import pairwise
from typing import Any

import torch


def told(ends: list[float], losses: list[float], reference_seconds: float = 0.0) -> dict[str, Any]:
    """Seconds of each step, losses and peak memory of this process.

    Args:
        ends: monotonic time of the beginning and of each step's end.
        reference_seconds: of a pass of the reference before the beginning.
    """
    if torch.cuda.is_available():
        peak = torch.cuda.max_memory_allocated()
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    steps = [end - start for start, end in pairwise(ends)]
    return {
        "steps": steps,
        "losses": losses,
        "reference_seconds": reference_seconds,
        "peak_gib": peak / (1 << 30),
    }
