"""What a vLLM engine says of itself after each step, kept as plain numbers."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vllm.v1.metrics.loggers import StatLoggerBase


class EngineStats:
    """The latest numbers of one engine: queue, KV cache, preemptions, prefix cache."""

    def __init__(self) -> None:
        self.running = self.waiting = self.preemptions = self.steps = 0
        self.kv_usage = 0.0
        self.prefix_queries = self.prefix_hits = 0
        """Prompt tokens looked up in the prefix cache, and of those found, since the start."""
        self._heard = time.monotonic()
        self._calls, self._busy = 0, 0.0

    def logger(self, config: Any, index: int = 0) -> StatLoggerBase:
        """What ``AsyncLLM(stat_loggers=[...])`` wants: vLLM calls it once per engine core."""
        from vllm.v1.metrics.loggers import StatLoggerBase

        stats = self

        class Recorder(StatLoggerBase):
            def __init__(self) -> None:
                return None

            def record(
                self,
                scheduler_stats: Any,
                iteration_stats: Any,
                mm_cache_stats: Any = None,
                engine_idx: int = 0,
            ) -> None:
                stats.take(scheduler_stats, iteration_stats)

            def log_engine_initialized(self) -> None:
                return None

        return Recorder()

    def take(self, scheduler: Any, iteration: Any) -> None:
        """Take over one step's SchedulerStats and IterationStats; either may be None."""
        self._heard = time.monotonic()
        self.steps += 1
        if scheduler is not None:
            self.running = scheduler.num_running_reqs
            self.waiting = scheduler.num_waiting_reqs + scheduler.num_skipped_waiting_reqs
            self.kv_usage = scheduler.kv_cache_usage
            self.prefix_queries += scheduler.prefix_cache_stats.queries
            self.prefix_hits += scheduler.prefix_cache_stats.hits
        if iteration is not None:
            self.preemptions += iteration.num_preempted_reqs

    def submitted(self) -> None:
        """A call goes to the engine; if it was idle, its silence begins to count only now."""
        if not self.running and not self.waiting:
            self._heard = time.monotonic()
        if not self._calls:
            self._since = time.monotonic()
        self._calls += 1

    def ended(self) -> None:
        """A call is answered or has failed."""
        self._calls -= 1
        if not self._calls:
            self._busy += time.monotonic() - self._since

    @property
    def busy_s(self) -> float:
        """Seconds in which calls were in flight, since the start."""
        return self._busy + (time.monotonic() - self._since if self._calls else 0.0)

    def silent_s(self) -> float:
        """Seconds since the last step, or since the call that ended an idle time."""
        return time.monotonic() - self._heard
