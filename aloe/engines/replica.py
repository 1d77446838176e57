"""The Ray actor of one engine of a pool."""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from aloe.config import StorageConfig, VllmModel
from aloe.engines.base import Completion, Load, Request
from aloe.engines.lease import Users
from aloe.machine import use_reserved_threads
from aloe.progress import on_phase
from aloe.storage import use_storage

if TYPE_CHECKING:
    from aloe.engines.supervised import SupervisedEngine

_LOOK_EVERY_S = 2.0
_GRACE_S = 30.0
UNPLACED = "waiting for its process"
"""Phase of an engine that has not begun to start."""


class EngineReplica:
    """Ray actor: one engine of a pool. It is started by the first call."""

    def __init__(self, name: str, model: VllmModel, storage: StorageConfig) -> None:
        use_storage(storage)
        use_reserved_threads()
        self._name, self._model = name, model
        self._engine: asyncio.Task[SupervisedEngine] | None = None
        self._shared = True
        self._phase = UNPLACED
        self._settling: asyncio.Task[None] | None = None
        self._users, self._leaving = Users(), False
        threading.Thread(target=self._watch, name="leases", daemon=True).start()

    def _watch(self) -> None:
        """End this actor when the last lease has run out: its users were killed."""
        import ray

        itself = ray.get_runtime_context().current_actor
        while not self._users.nobody(time.monotonic()):
            time.sleep(_LOOK_EVERY_S)
        if self._leaving:  # its last user ends it, unless that is killed meanwhile
            time.sleep(_GRACE_S)
        ray.kill(itself)

    async def renew(self, user: str) -> bool:
        """See `aloe.engines.lease.Users.renew`."""
        return self._users.renew(user, time.monotonic())

    async def leave(self, user: str) -> bool:
        """A user is out. True: it was the last, and the engine is closed; it ends the actor."""
        last = self._leaving = self._users.leave(user, time.monotonic())
        if last and self._engine is not None and self._engine.done():
            await self.close()
        return last

    async def _started(self) -> SupervisedEngine:
        if self._engine is None:
            self._engine = asyncio.create_task(asyncio.to_thread(self._start))
        return await self._engine

    def _start(self) -> SupervisedEngine:
        from aloe.engines.start import start_vllm

        on_phase(self._note)
        return start_vllm(self._name, self._model, share_cores=self._shared)

    def _note(self, phase: str) -> None:
        self._phase = phase

    async def phase(self) -> str:
        """What its start is at; answered at any time."""
        return self._phase

    async def complete(self, request: Request) -> Completion:
        answer = await (await self._started()).complete(request)
        self._users.called(time.monotonic())
        return answer

    async def load(self) -> Load:
        if self._settling is not None:  # who has seen the load may rely on the number of threads
            await self._settling
        return (await self._started()).load()

    async def release(self, conversation: str) -> None:
        (await self._started()).release(conversation)

    async def share_cores(self, shared: bool) -> None:
        """Compute on as many cores as are reserved, or on all of a machine without a GPU."""
        self._shared = shared
        self._settling = asyncio.create_task(self._settle(shared))
        await self._settling

    async def _settle(self, shared: bool) -> None:
        await (await self._started()).share_cores(shared)

    async def close(self) -> None:
        if self._engine is not None:
            with suppress(Exception):  # one that could not start
                (await self._engine).close()
