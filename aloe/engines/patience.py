"""Waiting, once for all callers of a process, for what may pass by itself (`run.patience_s`)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

from aloe.engines import breaker
from aloe.engines.base import Completion, Engine, Request
from aloe.engines.wrapper import Wrapper
from aloe.errors import EngineError, Unanswerable, WorldFault

T = TypeVar("T")

_TOLERATED_S = 5.0
"""Seconds without an answer in which an engine's own attempts fail before that is an outage."""


class Patience:
    """One breaker, and the callers that it holds back."""

    def __init__(self, patience_s: float, tell: Callable[[str], None]) -> None:
        """``tell`` hears what is waited for, and when it is over."""
        self._state, self._tell = breaker.begin(patience_s), tell
        self._exhausted = False
        self._changed = asyncio.Event()
        self._answers = 0
        self._troubled_at: float | None = None
        self.canary: Callable[[], Awaitable[None]] | None = None
        """Asks once for what anybody would be answered; raises WorldFault if nobody is there."""

    @property
    def stopped(self) -> str | None:
        """Why nobody asks any more; None while somebody may."""
        return self._state.reason if self._state.stopped else None

    def trouble(self, reason: str) -> None:
        """One attempt of a call that still goes on has failed by the world.

        Where nothing is answered for as long as patience lasts, calls that go on are ended too.
        """
        now = time.monotonic()
        if self._troubled_at is None:
            self._troubled_at = now
        lasted_s = now - self._troubled_at
        if lasted_s >= _TOLERATED_S:
            since = self._troubled_at
            self._become(breaker.refused(self._state, reason, True, now, since=since), True)

    async def call(self, work: Callable[[], Awaitable[T]]) -> T:
        """Do ``work``, again for as long as the world refuses it and patience lasts.

        Raises:
            WorldFault: it did not pass.
            Unanswerable: only this work is refused, while others are answered all the time.
            Exception: whatever else ``work`` raises.
        """
        refused_at, answers = None, 0
        while True:
            step = breaker.step(self._state, time.monotonic())
            if step.do == "stop":
                self._become(breaker.stop(self._state), True)
                raise WorldFault(self._state.reason, passes=False)
            if step.do == "wait":
                await self._wait(step.wait_s)
                continue
            if step.do == "probe" and self.canary is not None:
                await self._send_canary()
                continue
            try:
                return await self._attempt(lambda: self._while_asking(work()), step.do == "probe")
            except WorldFault as fault:
                now = time.monotonic()
                if refused_at is None:
                    refused_at, answers = now, self._answers
                if now - refused_at > self._state.patience_s and self._answers > answers:
                    raise Unanswerable(f"{fault}; others are answered meanwhile") from fault

    async def _attempt(self, work: Callable[[], Awaitable[T]], probing: bool) -> T:
        """Do ``work`` once; the breaker hears what became of it."""
        if probing:
            self._state = breaker.probe(self._state)
        try:
            found = await work()
        except WorldFault as fault:
            now = time.monotonic()
            state = breaker.refused(
                self._state, str(fault), fault.passes, now, probing, after_s=fault.after_s
            )
            self._become(state, fault.passes)
            raise
        except Exception:  # an answer all the same: whoever gave it is there
            self._answer()
            raise
        except asyncio.CancelledError:  # nobody knows
            if probing:
                self._become(breaker.unprobed(self._state, time.monotonic()))
            raise
        self._answer()
        return found

    async def _send_canary(self) -> None:
        """Probe with a call that anybody would answer: not every call is."""
        assert self.canary is not None
        with suppress(WorldFault, EngineError):
            await self._attempt(self.canary, True)

    async def _while_asking(self, work: Awaitable[T]) -> T:
        """The work's outcome, unless patience ends before; meanwhile, a look now and then.

        Raises:
            WorldFault: patience ended.
        """
        doing = asyncio.ensure_future(work)
        try:
            while not doing.done():
                step = breaker.step(self._state, time.monotonic())
                if step.do == "probe" and self.canary is not None:
                    await self._send_canary()
                    continue
                if step.do == "stop" and not self._state.stopped:
                    self._become(breaker.stop(self._state), True)
                if self._exhausted:
                    raise WorldFault(self._state.reason, passes=False)
                changed = asyncio.ensure_future(self._changed.wait())
                limit = step.wait_s if step.do == "wait" else None
                try:
                    await asyncio.wait(
                        {doing, changed}, timeout=limit, return_when=asyncio.FIRST_COMPLETED
                    )
                finally:
                    changed.cancel()
            return doing.result()
        finally:
            doing.cancel()

    def _answer(self) -> None:
        self._answers += 1
        self._troubled_at = None
        if self._state.since is not None:
            self._become(breaker.answered(self._state))

    def _become(self, state: breaker.Breaker, passing: bool = False) -> None:
        """``passing``: the fault might have passed, so that calls which go on wait for it too."""
        before, self._state = self._state, state
        if state == before:
            return
        if before.since is None and not state.stopped:
            self._tell(f"{state.reason}; waiting for it up to {state.patience_s:g} s")
        self._exhausted = state.stopped and passing
        if state.since is None and before.since is not None:
            self._tell(f"{before.reason}: over, going on")
        self._changed.set()
        self._changed = asyncio.Event()

    async def _wait(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            pass  # the time for a look has come


class PatientEngine(Wrapper[Engine]):
    """An engine whose callers wait together."""

    def __init__(self, engine: Engine, patience: Patience) -> None:
        super().__init__(engine)
        self.patience = patience

    async def complete(self, request: Request) -> Completion:
        return await self.patience.call(lambda: self._engine.complete(request))
