"""An engine that is replaced when it dies or hangs; the calls that were in it are made again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Protocol

from aloe.engines.base import Completion, Engine, Request
from aloe.engines.wrapper import Wrapper
from aloe.errors import EngineDied, Poisoned
from aloe.progress import say

_SUSPECT = 2
"""A call in which that many engines died goes on alone: it, or another one, may be what kills them.
A further death in which it was alone is its own, and gives it up."""
_LOOK_EVERY_S = 1.0
_DEATHS_IN_A_ROW = 5
"""Engines that died without one answer in between before no further one is started: of those with
many calls, and of those with one."""


class WatchedEngine(Engine, Protocol):
    """An engine that tells when it hangs."""

    def stalled_s(self) -> float:
        """Seconds without a sign of life while calls wait; infinite if it is known to be dead."""
        ...

    async def share_cores(self, shared: bool) -> None:
        """Whether other engines compute on this machine's cores too."""
        ...


class Lane:
    """Many at once, or one alone: who wants to be alone waits until the others are out."""

    def __init__(self) -> None:
        self._changed = asyncio.Condition()
        self._inside = self._waiting = 0
        self._taken = False

    @asynccontextmanager
    async def beside_others(self) -> AsyncIterator[None]:
        """Wait for those that want to be alone; inside until the block ends."""
        async with self._changed:
            await self._changed.wait_for(lambda: not self._taken and not self._waiting)
            self._inside += 1
        try:
            yield
        finally:
            async with self._changed:
                self._inside -= 1
                self._changed.notify_all()

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Wait until nobody is inside; alone until the block ends."""
        async with self._changed:
            self._waiting += 1
            try:
                await self._changed.wait_for(lambda: not self._taken and not self._inside)
                self._taken = True
            finally:
                self._waiting -= 1
                self._changed.notify_all()
        try:
            yield
        finally:
            async with self._changed:
                self._taken = False
                self._changed.notify_all()


class SupervisedEngine(Wrapper[WatchedEngine]):
    """One engine at a time. Who calls sees a death only as a longer wait.

    A call is a function of its request, seed included, so making it again changes no answer.
    """

    def __init__(
        self, name: str, start: Callable[[], WatchedEngine], stall_timeout_s: float
    ) -> None:
        """Start the first engine.

        Args:
            start: makes an engine; called in a thread for each replacement.
            stall_timeout_s: seconds without a sign of life after which an engine counts as dead.
        """
        self._name, self._start, self._stall_timeout_s = name, start, stall_timeout_s
        super().__init__(start())
        self._shared: bool | None = None
        self._replacing = asyncio.Lock()
        self._deaths_in_a_row = {"among others": 0, "alone": 0}
        self._lane = Lane()
        self.replaced = 0
        """Engines that died and were replaced."""

    async def complete(self, request: Request) -> Completion:
        for _ in range(_SUSPECT):
            async with self._lane.beside_others():
                found = await self._try(request, "among others")
            if isinstance(found, Completion):
                return found
        async with self._lane.alone():
            found = await self._try(request, "alone")
        if isinstance(found, Completion):
            return found
        raise Poisoned(
            f"{self._name}: {_SUSPECT + 1} engines died during this call; the last: {found}"
        )

    async def _try(self, request: Request, how: str) -> Completion | EngineDied:
        """An answer; or of what the engine died, when there is another one."""
        async with self._replacing:  # nobody calls an engine that is about to go
            engine = self._engine
        try:
            completion = await self._watch(engine, request)
        except EngineDied as error:
            await self._replace(engine, error, how)
            return error
        self._deaths_in_a_row = dict.fromkeys(self._deaths_in_a_row, 0)
        return completion

    async def _watch(self, engine: WatchedEngine, request: Request) -> Completion:
        call = asyncio.ensure_future(engine.complete(request))
        try:
            while not call.done():
                await asyncio.wait({call}, timeout=min(_LOOK_EVERY_S, self._stall_timeout_s / 4))
                if not call.done() and engine.stalled_s() > self._stall_timeout_s:
                    raise EngineDied(
                        f"{self._name}: no step in {self._stall_timeout_s:.0f} s "
                        "(models.NAME.stall_timeout_s)"
                    )
            return call.result()
        finally:
            call.cancel()

    async def _replace(self, dead: WatchedEngine, cause: EngineDied, how: str) -> None:
        async with self._replacing:
            if self._engine is not dead:
                return  # another of its calls has seen to it
            self._deaths_in_a_row[how] += 1
            if self._deaths_in_a_row[how] >= _DEATHS_IN_A_ROW:
                raise EngineDied(
                    f"{self._name}: {_DEATHS_IN_A_ROW} engines in a row died; the last: {cause}"
                )
            say(f"{self._name}: engine lost, another one starts ({cause})", model=self._name)
            await asyncio.to_thread(dead.close)
            self._engine = await asyncio.to_thread(self._start)
            if self._shared is not None:
                await self._engine.share_cores(self._shared)
            self.replaced += 1

    async def share_cores(self, shared: bool) -> None:
        """See `WatchedEngine`; holds for replacements too."""
        self._shared = shared
        await self._engine.share_cores(shared)
