"""Engines of their own: pools of named Ray actors that all actors of a cluster share.

A conversation stays with one engine, whose prefix cache knows it; a new one goes to the engine that
is least loaded. Names follow from the model's settings, so that rollout, evaluation and training
find the same pool, also from different processes of one Ray cluster.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from aloe.config import ActorPool, EnginePool, ModelConfig, StorageConfig, VllmModel
from aloe.engines.base import Completion, Load, Request
from aloe.engines.kept import kept, plain
from aloe.engines.lease import Lease
from aloe.engines.replica import UNPLACED, EngineReplica
from aloe.errors import EngineDied, Poisoned, UserError, WorldFault
from aloe.progress import say
from aloe.runtime import has_resources
from aloe.schema import stable_id

NAMESPACE = "aloe"

Pools = dict[str, list[Any]]
"""Model name -> handles of its `EngineReplica` actors; picklable."""

_SPARE_CPUS = 1.0
"""For what else a stage starts."""
_LOOK_EVERY_S = 1.0
_DEATHS_PER_CALL = 3
"""A call that was in so many engines when they were lost is given up: it may be what ends them."""
_RESTART_S = 900.0
"""For Ray to find a place for an engine that starts again; its start then takes what it takes."""
_CALLS_AT_ONCE = 4096


def pooled_models(
    models: Mapping[str, ModelConfig], actors: ActorPool | None = None
) -> dict[str, VllmModel]:
    """Those of a stage's models that get engines of their own, each with its ``pool`` filled in.

    That is who has a ``pool`` in the configuration, everyone where a stage uses several vLLM
    models (engines that do not know of each other would fight for one device), and who stays for a
    later stage (`aloe.engines.kept`).

    Args:
        actors: those in which the engine of an only model could live; without them, all vLLM
            models get their own.
    """
    vllm = {name: model for name, model in models.items() if isinstance(model, VllmModel)}
    several = actors is None or len(set(vllm.values())) > 1
    found = {}
    for name, model in vllm.items():
        pool = model.pool or (EnginePool() if several else None)
        if pool is None and actors is not None:
            pool = _staying(model, actors)
        if pool is not None:
            found[name] = model.model_copy(update={"pool": pool})
    return found


def _staying(model: VllmModel, actors: ActorPool) -> EnginePool | None:
    """As many engines outside of a stage's actors as there would be inside, if they are to stay.

    That needs a number of actors that is fixed, and CPUs for both.
    """
    keeping = kept()
    if keeping is None or actors.min != actors.max or not keeping.keeps(model):
        return None
    pool = EnginePool(replicas=actors.max, num_cpus=actors.num_cpus, num_gpus=actors.num_gpus)
    _, cpus = pool_resources({"": model.model_copy(update={"pool": pool})})
    enough = has_resources(0, cpus + actors.max * actors.num_cpus + _SPARE_CPUS)
    return pool if enough else None


def pool_resources(pooled: Mapping[str, VllmModel]) -> tuple[float, float]:
    """(Logical) GPUs and CPUs that the pools of these models reserve in all."""
    places = [_placement(model) for model in set(pooled.values())]
    gpus = sum(float(place["replicas"] * place["num_gpus"]) for place in places)
    return gpus, sum(float(place["replicas"] * place["num_cpus"]) for place in places)


@contextmanager
def open_pools(
    pooled: Mapping[str, VllmModel],
    storage: StorageConfig,
    wait: bool = True,
    alone: bool = False,
) -> Iterator[Pools]:
    """Start the pools of these models or join those that are there, and hold them meanwhile.

    The last of their users, in whatever run, closes them (`aloe.engines.lease`).

    Args:
        pooled: see `pooled_models`.
        wait: until all can answer; else `await_pools` does.
        alone: these are all the engines that compute. An only one takes all cores of a CPU; else
            each has as many threads as it has CPUs.

    Raises:
        EngineDied: an engine cannot start.
        UserError: a checkpoint is missing.
    """
    lease, pools = Lease(), Pools()
    keeping = kept()
    try:
        for name, model in pooled.items():
            pools[name] = []
            place = _placement(model)
            for index in range(place["replicas"]):
                replica, is_new = _held(lease, name, model, index, storage)
                pools[name].append(replica)
                if is_new and keeping is not None and keeping.keeps(model):
                    longer = Lease()
                    longer.hold(replica, is_new)
                    keeping.keep(name, model, longer, place["num_gpus"], place["num_cpus"])
        engines = {replica for replicas in pools.values() for replica in replicas}
        for replica in engines:
            replica.share_cores.remote(not alone or len(engines) > 1)
        if wait:
            await_pools(pools)
        yield pools
    finally:
        lease.end()


def await_pools(pools: Pools) -> None:
    """Return when every engine can answer; says meanwhile what they are at.

    Raises:
        EngineDied: an engine cannot start.
        UserError: a checkpoint is missing.
    """
    import ray

    for name, replicas in pools.items():
        starting = [replica.load.remote() for replica in replicas]
        waiting, told, began = list(starting), "", time.monotonic()
        try:
            while waiting:
                done, waiting = ray.wait(waiting, timeout=_LOOK_EVERY_S)
                ray.get(done)
                if waiting and not done:
                    told = _say_phase(name, _phase_of(replicas[-1]), told)
            if told:
                waited = time.monotonic() - began
                say(f"{name}: ready", model=name, phase="ready", waited_s=waited)
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, UserError):
                raise error.cause from error
            raise EngineDied(f"model {name}: its engine cannot start: {error.cause}") from error
        except ray.exceptions.RayActorError as error:
            last_line = str(error).strip().splitlines()[-1]
            raise EngineDied(f"model {name}: its engine cannot start: {last_line}") from error


def _phase_of(replica: Any) -> str:
    import ray

    try:
        return str(ray.get(replica.phase.remote(), timeout=_LOOK_EVERY_S))
    except ray.exceptions.GetTimeoutError:
        return UNPLACED


def _say_phase(name: str, phase: str, told: str) -> str:
    if phase != told:
        say(f"{name}: starting engine: {phase}", model=name, phase=phase)
    return phase


def _held(
    lease: Lease, name: str, model: VllmModel, index: int, storage: StorageConfig
) -> tuple[Any, bool]:
    """`_replica`, held by a lease; one that is closing is waited for to be gone."""
    while True:
        replica, is_new = _replica(name, model, index, storage)
        if lease.hold(replica, is_new):
            return replica, is_new
        time.sleep(_LOOK_EVERY_S)


def _replica(name: str, model: VllmModel, index: int, storage: StorageConfig) -> tuple[Any, bool]:
    """Handle of one engine of a pool, and whether it was started by this call."""
    import ray

    place = _placement(model)
    label = f"engine-{stable_id(plain(model).model_dump(mode='json'))}-{index}"
    try:
        return ray.get_actor(label, namespace=NAMESPACE), False
    except ValueError:  # nobody has that name
        pass
    remote: Any = ray.remote(EngineReplica)
    options = {
        "name": label,
        "namespace": NAMESPACE,
        "get_if_exists": True,
        "lifetime": "detached",  # it may have users in other runs
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
        from ray.exceptions import RayActorError, RayTaskError

        await self._look()
        for _ in range(_DEATHS_PER_CALL):
            await self._some_engine()
            home = self._home(request.conversation)
            seat = self._seats[home]
            seat.calls += 1
            try:
                completion: Completion = await self._replicas[home].complete.remote(request)
                return completion
            except RayTaskError as error:  # its class and words are of both
                raise error.cause from error
            except RayActorError:
                # Ray starts it again; where there are others, the conversation moves to one.
                seat.lost = True
                self._leave(request.conversation)
            finally:
                seat.calls -= 1
        raise Poisoned(f"{self._name}: {_DEATHS_PER_CALL} engines were lost during this call")

    async def _some_engine(self) -> None:
        """Return when an engine is there; while all are lost, ask for the first that comes back.

        Raises:
            WorldFault: none has come back.
        """
        given_up_at = time.monotonic() + _RESTART_S
        while all(seat.lost for seat in self._seats):
            if await self._is_starting():
                given_up_at = time.monotonic() + _RESTART_S
            if time.monotonic() > given_up_at:
                raise WorldFault(
                    f"{self._name}: its engines are lost, and none came back in {_RESTART_S:.0f} s",
                    passes=False,
                )
            await asyncio.sleep(_LOOK_EVERY_S)
            await self._look()

    async def _is_starting(self) -> bool:
        """Whether an engine has a process again."""
        from ray.exceptions import RayActorError

        for replica in self._replicas:
            with suppress(RayActorError, TimeoutError):
                async with asyncio.timeout(_LOOK_EVERY_S):
                    await replica.phase.remote()
                    return True
        return False

    def _home(self, conversation: str) -> int:
        if conversation in self._homes and self._seats[self._homes[conversation]].lost:
            self._leave(conversation)
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
