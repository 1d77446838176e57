"""What our engines can be told beside what vLLM's can; loaded where the weights are."""

from __future__ import annotations

# vLLM takes this function away from its workers on a CPU when they start.
from torch import set_num_threads


class CountedThreads:
    """A vLLM worker extension: how many threads compute can change while the engine lives."""

    def use_threads(self, threads: int) -> None:
        """Compute with that many threads from the next step on."""
        set_num_threads(threads)
