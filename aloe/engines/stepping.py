"""The clock of a continuously batching engine, without the engine."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections import deque

_Call = tuple[float, int, asyncio.Future[None]]


class StepClock:
    """Calls take steps together: a step lasts ``step_s + step_s_per_sequence * running`` seconds.

    It wakes when a call begins or ends, not at each step: between these the steps are all alike.
    """

    def __init__(self, step_s: float, step_s_per_sequence: float, max_num_seqs: int) -> None:
        self._step_s, self._per_sequence, self._most = step_s, step_s_per_sequence, max_num_seqs
        self._steps = 0.0  # taken so far, whoever was running
        self._at = 0.0
        self._running: list[_Call] = []  # heap by the step at which a call ends
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._numbers = itertools.count()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    async def take(self, steps: int) -> None:
        """Return after so many steps, counted from when the call begins to run."""
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((steps, ended))
        self._turn()
        try:
            await ended
        except asyncio.CancelledError:
            self._leave(ended)
            raise

    def _leave(self, ended: asyncio.Future[None]) -> None:
        """A call is given up: its place goes to the next."""
        self._advance()
        self._running = [call for call in self._running if call[-1] is not ended]
        heapq.heapify(self._running)
        self._waiting = deque(call for call in self._waiting if call[-1] is not ended)
        self._turn()

    def _advance(self) -> None:
        """Count the steps since the last look."""
        now = asyncio.get_running_loop().time()
        if self._running:
            self._steps += (now - self._at) / self._step()
        self._at = now

    def _turn(self) -> None:
        self._advance()
        while self._running and self._running[0][0] <= self._steps + 1e-6:
            _, _, ended = heapq.heappop(self._running)
            if not ended.done():  # cancelled, but its task has not run since
                ended.set_result(None)
        while self._waiting and len(self._running) < self._most:
            steps, ended = self._waiting.popleft()
            heapq.heappush(self._running, (self._steps + steps, next(self._numbers), ended))
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        if self._running:
            left = max(self._running[0][0] - self._steps, 0.0)
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(left * self._step(), self._turn)

    def _step(self) -> float:
        return self._step_s + self._per_sequence * len(self._running)
