"""Who may call a server now: one desk per model, asked by all engines of a run.

Inside Ray the desk is a small named actor, else an object of this process; what it decides is in
`aloe.engines.pacing`.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from aloe.config import OpenAIModel
from aloe.engines.pacing import Pace, begun, earliest, ended, quiet
from aloe.schema import stable_id

_GONE_AFTER_S = 30.0
"""Beyond an attempt's own limit of time."""
_WAITERS = 100_000


class Desk:
    """Lets calls begin in the order in which they ask."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._calls = itertools.count()
        self._line = asyncio.Lock()
        self._changed = asyncio.Event()

    async def take(self, tokens: int) -> int:
        """Wait until a call with so many tokens may begin; its number."""
        async with self._line:
            while True:
                now = time.monotonic()
                wait = earliest(self._pace, now) - now
                if wait <= 0:
                    break
                self._changed.clear()
                try:
                    async with asyncio.timeout(wait):
                        await self._changed.wait()
                except TimeoutError:
                    continue
            call = next(self._calls)
            self._pace = begun(self._pace, call, tokens, now)
            return call

    async def give(self, call: int, tokens: int, spent: int) -> None:
        """A call has ended."""
        self._pace = ended(self._pace, call, tokens, spent)
        self._changed.set()

    async def hush(self, seconds: float) -> None:
        """The server asks for no call for so long."""
        self._pace = quiet(self._pace, time.monotonic() + seconds)


@dataclass
class Permit:
    """A call that may be made, and what it turned out to need."""

    spent: int


class Permits:
    """An engine's side of the desk."""

    def __init__(self, model: OpenAIModel) -> None:
        self._pace = Pace(
            most=model.max_concurrency,
            expires_s=model.timeout_s + _GONE_AFTER_S,
            requests_per_minute=model.requests_per_minute,
            tokens_per_minute=model.tokens_per_minute,
        )
        self._name = f"desk-{stable_id(model.model_dump(mode='json'))}"
        self._desk: Any = None
        self._remote = False

    @asynccontextmanager
    async def permit(self, tokens: int) -> AsyncIterator[Permit]:
        """Wait until the call may be made; it has ended with the block.

        Args:
            tokens: those that it may need in all.
        """
        desk, call = await self._take(tokens)
        permit = Permit(spent=0)
        try:
            yield permit
        finally:
            if self._remote:
                desk.give.remote(call, tokens, permit.spent)  # no answer is waited for
            else:
                await desk.give(call, tokens, permit.spent)

    async def hush(self, seconds: float) -> None:
        """No call of any engine begins for so long."""
        desk = self._found()
        if self._remote:
            desk.hush.remote(seconds)
        else:
            await desk.hush(seconds)

    async def _take(self, tokens: int) -> tuple[Any, int]:
        while True:
            desk = self._found()
            if not self._remote:
                return desk, await desk.take(tokens)
            from ray.exceptions import RayActorError

            asked = desk.take.remote(tokens)
            try:
                return desk, await asked
            except RayActorError:  # it was lost with its node or its first user: open it again
                self._desk = None
                await asyncio.sleep(0.1)
            except asyncio.CancelledError:
                _forget(asked)
                raise

    def _found(self) -> Any:
        if self._desk is None:
            self._remote = _in_ray()
            self._desk = self._open_remote() if self._remote else Desk(self._pace)
        return self._desk

    def _open_remote(self) -> Any:
        import ray

        remote: Any = ray.remote(Desk)
        return remote.options(
            name=self._name, get_if_exists=True, num_cpus=0, max_concurrency=_WAITERS
        ).remote(self._pace)


def _in_ray() -> bool:
    ray = sys.modules.get("ray")  # where it was never imported there is no cluster
    return ray is not None and ray.is_initialized()


def _forget(asked: Any) -> None:
    import ray

    ray.cancel(asked)
