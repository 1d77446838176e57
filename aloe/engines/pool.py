"""Engines of their own: pools of named Ray actors that all actors of a cluster share.

A conversation stays with one engine, whose prefix cache knows it; a new one goes to the engine that
is least loaded. Names follow from the model's settings, so that rollout, evaluation and training
find the same pool, also from different processes of one Ray cluster.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from aloe.config import EnginePool, ModelConfig, StorageConfig, VllmModel
from aloe.engines.base import Completion, Engine, Load, Request
from aloe.errors import EngineDied, EngineError
from aloe.machine import use_reserved_threads
from aloe.schema import stable_id
from aloe.storage import use_storage

NAMESPACE = "aloe"

Pools = dict[str, list[Any]]
"""Model name -> handles of its `EngineReplica` actors; picklable."""

_LOOK_EVERY_S = 1.0
_DEATHS_PER_CALL = 3
_CALLS_AT_ONCE = 4096
_CLOSE_WITHIN_S = 30.0


def pooled_models(models: Mapping[str, ModelConfig], always: bool = False) -> dict[str, VllmModel]:
    """Those of a stage's models that get engines of their own, each with its ``pool`` filled in.

    That is who has a ``pool`` in the configuration, and everyone where a stage uses several vLLM
    models: engines that do not know of each other would fight for one device.

    Args:
        always: the stage has engines of other kinds too, so that all vLLM models get their own.
    """
    vllm = {name: model for name, model in models.items() if isinstance(model, VllmModel)}
    several = always or len(set(vllm.values())) > 1
    return {
        name: model.model_copy(update={"pool": model.pool or EnginePool()})
        for name, model in vllm.items()
        if model.pool or several
    }


def pool_resources(pooled: Mapping[str, VllmModel]) -> tuple[float, float]:
    """(Logical) GPUs and CPUs that the pools of these models reserve in all."""
    places = [_placement(model) for model in set(pooled.values())]
    gpus = sum(float(place["replicas"] * place["num_gpus"]) for place in places)
    return gpus, sum(float(place["replicas"] * place["num_cpus"]) for place in places)


@contextmanager
def open_pools(
    pooled: Mapping[str, VllmModel], storage: StorageConfig, wait: bool = True
) -> Iterator[Pools]:
    """Start the pools of these models or join those that are there; close what was started.

    Args:
        pooled: see `pooled_models`.
        wait: until all can answer; else `await_pools` does.

    Raises:
        EngineDied: an engine cannot start.
    """
    import ray

    started: list[Any] = []
    pools: Pools = {}
    try:
        for name, model in pooled.items():
            pools[name] = []
            for index in range(_placement(model)["replicas"]):
                replica, is_new = _replica(name, model, index, storage)
                pools[name].append(replica)
                started += [replica] if is_new else []
        if wait:
            await_pools(pools)
        yield pools
    finally:
        closing = [replica.close.remote() for replica in started]
        if closing:
            ray.wait(closing, num_returns=len(closing), timeout=_CLOSE_WITHIN_S)
        for replica in started:
            ray.kill(replica)


def await_pools(pools: Pools) -> None:
    """Return when every engine can answer.

    Raises:
        EngineDied: an engine cannot start.
    """
    import ray

    for name, replicas in pools.items():
        try:
            ray.get([replica.load.remote() for replica in replicas])
        except ray.exceptions.RayActorError as error:
            last_line = str(error).strip().splitlines()[-1]
            raise EngineDied(f"model {name}: its engine cannot start: {last_line}") from error


def _replica(name: str, model: VllmModel, index: int, storage: StorageConfig) -> tuple[Any, bool]:
    """Handle of one engine of a pool, and whether it was started by this call."""
    import ray

    place = _placement(model)
    label = f"engine-{stable_id(model.model_dump(mode='json'))}-{index}"
    try:
        return ray.get_actor(label, namespace=NAMESPACE), False
    except ValueError:  # nobody has that name
        pass
    remote: Any = ray.remote(EngineReplica)
    options = {
        "name": label,
        "namespace": NAMESPACE,
        "get_if_exists": True,
        "num_cpus": place["num_cpus"],
        "num_gpus": place["num_gpus"],
        "max_restarts": -1,
        "max_concurrency": _CALLS_AT_ONCE,
    }
    return remote.options(**options).remote(name, model, storage), True


def _placement(model: VllmModel) -> dict[str, Any]:
    pool = model.pool or EnginePool()
    gpus = model.tensor_parallel_size if pool.num_gpus is None else pool.num_gpus
    return {"replicas": pool.replicas, "num_cpus": pool.num_cpus, "num_gpus": gpus}


class EngineReplica:
    """Ray actor: one engine of a pool."""

    def __init__(self, name: str, model: VllmModel, storage: StorageConfig) -> None:
        from aloe.engines.start import start_vllm

        use_storage(storage)
        use_reserved_threads()
        # A pool is for several engines: on a CPU none of them may claim the cores.
        self._engine: Engine = start_vllm(name, model, share_cores=True)

    async def complete(self, request: Request) -> Completion:
        return await self._engine.complete(request)

    async def load(self) -> Load:
        return self._engine.load()

    async def release(self, conversation: str) -> None:
        self._engine.release(conversation)

    async def close(self) -> None:
        self._engine.close()


@dataclass
class _Seat:
    """What one caller knows of one engine of a pool."""

    load: Load = field(default_factory=lambda: Load(0, 0, 1))
    """When it was last asked."""
    calls: int = 0
    """This caller's calls in flight."""
    conversations: int = 0
    """This caller's conversations that are at home there."""
    lost: bool = False

    @property
    def work(self) -> tuple[bool, int]:
        """Order of preference: engines that are there, then those with little to do."""
        others = self.load.running + self.load.waiting - self.calls
        return self.lost, self.conversations + max(others, 0)


class PooledEngine:
    """One model behind the engines of its pool."""

    def __init__(self, name: str, replicas: Sequence[Any]) -> None:
        self._name, self._replicas = name, list(replicas)
        self._seats = [_Seat() for _ in self._replicas]
        self._homes: dict[str, int] = {}
        self._looked_at = -_LOOK_EVERY_S
        self._looking: asyncio.Task[None] | None = None

    async def complete(self, request: Request) -> Completion:
        from ray.exceptions import RayActorError

        await self._look()
        for _ in range(_DEATHS_PER_CALL):
            home = self._home(request.conversation)
            seat = self._seats[home]
            seat.calls += 1
            try:
                completion: Completion = await self._replicas[home].complete.remote(request)
                return completion
            except RayActorError:
                # Ray starts it again; where there are others, the conversation moves to one.
                seat.lost = True
                self._leave(request.conversation)
                await asyncio.sleep(_LOOK_EVERY_S)
            finally:
                seat.calls -= 1
        raise EngineError(f"{self._name}: {_DEATHS_PER_CALL} engines were lost during this call")

    def _home(self, conversation: str) -> int:
        if conversation not in self._homes:
            home = min(range(len(self._seats)), key=lambda index: self._seats[index].work)
            if not conversation:
                return home
            self._homes[conversation] = home
            self._seats[home].conversations += 1
        return self._homes[conversation]

    def _leave(self, conversation: str) -> int | None:
        home = self._homes.pop(conversation, None)
        if home is not None:
            self._seats[home].conversations -= 1
        return home

    async def _look(self) -> None:
        """Ask the engines for their load now and then; only the very first call waits for it."""
        if time.monotonic() - self._looked_at < _LOOK_EVERY_S or self._looking is not None:
            return
        first, self._looked_at = self._looked_at < 0, time.monotonic()
        self._looking = asyncio.create_task(self._ask_loads())
        if first:
            await self._looking

    async def _ask_loads(self) -> None:
        from ray.exceptions import RayActorError

        async def ask(seat: _Seat, replica: Any) -> None:
            try:
                seat.load = await replica.load.remote()
                seat.lost = False
            except RayActorError:
                seat.lost = True  # it is being started again

        try:
            await asyncio.gather(*map(ask, self._seats, self._replicas))
        finally:
            self._looking = None

    def load(self) -> Load:
        """Sum over the pool; the fullest engine's KV usage."""
        loads = [seat.load for seat in self._seats]
        return Load(
            running=sum(load.running for load in loads),
            waiting=sum(load.waiting for load in loads),
            capacity=sum(load.capacity for load in loads),
            kv_usage=max(load.kv_usage for load in loads),
            preemptions=sum(load.preemptions for load in loads),
            reusable_tokens=sum(load.reusable_tokens for load in loads),
            cached_tokens=sum(load.cached_tokens for load in loads),
        )

    def release(self, conversation: str) -> None:
        home = self._leave(conversation)
        if home is not None:
            self._replicas[home].release.remote(conversation)

    def close(self) -> None:
        return None  # the pool belongs to whoever opened it
