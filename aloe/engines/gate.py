"""A bound on calls in flight that may change while calls wait."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Generic, Protocol, TypeVar


class Bound(Protocol):
    """A state that says how many may be inside, such as `Backoff` and `Admission`."""

    @property
    def limit(self) -> int: ...


B = TypeVar("B", bound=Bound)


class Gate(Generic[B]):
    """Lets calls in while fewer are inside than ``bound.limit``, the lowest number first.

    A call that comes back after a refusal keeps its number, so it goes before those that have
    not begun.
    """

    def __init__(self, bound: B) -> None:
        self.bound = bound
        """Replaced as more is learned, see `rebind`."""
        self.inside = 0
        """Calls in flight."""
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []

    def rebind(self, bound: B) -> None:
        """Take another bound; if it is wider, those who wait are let in at once."""
        self.bound = bound
        self._let_in()

    @property
    def waiting(self) -> int:
        """Calls that have not been let in."""
        return sum(not turn.done() for _, turn in self._waiting)

    @asynccontextmanager
    async def slot(self, number: int) -> AsyncIterator[None]:
        """Wait to be let in; inside until the block ends.

        Args:
            number: the call's place in the queue; unique among the calls that are waiting.
        """
        turn = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (number, turn))
        self._let_in()
        try:
            await turn
            yield
        finally:
            if turn.done() and not turn.cancelled():
                self.inside -= 1
                self._let_in()

    def _let_in(self) -> None:
        while self._waiting and self.inside < self.bound.limit:
            _, turn = heapq.heappop(self._waiting)
            if not turn.done():  # a waiting call may have been cancelled
                turn.set_result(None)
                self.inside += 1
