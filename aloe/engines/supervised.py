"""An engine that is replaced when it dies or hangs; the calls that were in it are made again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from aloe.engines.base import Completion, Engine, Load, Request
from aloe.errors import EngineDied, EngineError
from aloe.progress import say

_DEATHS_PER_CALL = 3
"""A call in which that many engines died is given up: it may be what kills them."""
_LOOK_EVERY_S = 1.0
_DEATHS_IN_A_ROW = 5
"""Engines that died without one answer in between before no further one is started."""


class WatchedEngine(Engine, Protocol):
    """An engine that tells when it hangs."""

    def stalled_s(self) -> float:
        """Seconds without a sign of life while calls wait; infinite if it is known to be dead."""
        ...

    async def share_cores(self, shared: bool) -> None:
        """Whether other engines compute on this machine's cores too."""
        ...


class SupervisedEngine:
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
        self._engine = start()
        self._shared: bool | None = None
        self._replacing = asyncio.Lock()
        self._deaths_in_a_row = 0
        self.replaced = 0
        """Engines that died and were replaced."""

    async def complete(self, request: Request) -> Completion:
        death: EngineDied | None = None
        for _ in range(_DEATHS_PER_CALL):
            async with self._replacing:  # nobody calls an engine that is about to go
                engine = self._engine
            try:
                completion = await self._watch(engine, request)
            except EngineDied as error:
                death = error
                await self._replace(engine, error)
            else:
                self._deaths_in_a_row = 0
                return completion
        raise EngineError(
            f"{self._name}: {_DEATHS_PER_CALL} engines died during this call; the last: {death}"
        )

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

    async def _replace(self, dead: WatchedEngine, cause: EngineDied) -> None:
        async with self._replacing:
            if self._engine is not dead:
                return  # another of its calls has seen to it
            self._deaths_in_a_row += 1
            if self._deaths_in_a_row >= _DEATHS_IN_A_ROW:
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

    def load(self) -> Load:
        return self._engine.load()

    def release(self, conversation: str) -> None:
        self._engine.release(conversation)

    def close(self) -> None:
        self._engine.close()
