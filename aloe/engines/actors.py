"""Ray Data actors that speak through engines, and rows through a pool of them as they finish."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from aloe.config import ActorPool, JudgeConfig, ModelConfig, OpenAIModel, RayConfig, VllmModel
from aloe.engines.admission import Admission, begin, observe
from aloe.engines.base import Engine, Load
from aloe.engines.board import BoardLink, Teller
from aloe.engines.counted import CountedEngine
from aloe.engines.gate import Gate
from aloe.engines.kept import kept
from aloe.engines.openai_parameters import remember
from aloe.engines.patience import Patience
from aloe.engines.pool import Pools, pool_resources
from aloe.engines.speakers import Speakers, gpus_for
from aloe.errors import WorldFault
from aloe.interrupt import raise_if_interrupted
from aloe.machine import use_reserved_threads
from aloe.progress import on_phase
from aloe.runtime import has_resources, require_resources

if TYPE_CHECKING:
    import ray.data

T = TypeVar("T")

_HOLD_BACK_S = 5.0
_OBSERVE_EVERY_S = 0.5
_CONVERSATIONS = 64
"""Most conversations of an actor whose models set no bound of their own."""


class AdmissionGate:
    """Keeps as many conversations open as the engines' load allows; looks at it now and then."""

    def __init__(self, loads: Callable[[], Iterable[Load]], most: int, fixed: bool = False) -> None:
        """Open for the first conversations.

        Args:
            loads: the engines' load now; there must be one.
            most: most conversations, whatever the load.
            fixed: always that many.
        """
        self._loads, self._fixed = loads, fixed
        first = Admission(most, most) if fixed else begin(loads(), most)
        self._gate = Gate(first)
        self._numbers = itertools.count()
        self._observing: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def admitted(self) -> AsyncIterator[None]:
        """Wait for room; the block is one conversation."""
        if self._observing is None and not self._fixed:
            self._observing = asyncio.create_task(self._observe())
        async with self._gate.slot(next(self._numbers)):
            yield

    async def _observe(self) -> None:
        gate = self._gate
        await asyncio.sleep(0)  # the conversation that began this enters
        while gate.inside or gate.waiting:
            gate.rebind(observe(gate.bound, self._loads(), gate.inside))
            await asyncio.sleep(_OBSERVE_EVERY_S)
        self._observing = None


class EngineWorker:
    """What every such actor has: engines, and a gate. Each row is its own coroutine."""

    def __init__(
        self,
        models: Mapping[str, ModelConfig],
        pools: Pools | None,
        actors: ActorPool,
        board: BoardLink | None = None,
        judge: JudgeConfig | None = None,
        patience_s: float = 0.0,
    ) -> None:
        """Start nothing yet.

        Args:
            judge: see `aloe.engines.Speakers`.
            patience_s: how long to wait for what may pass by itself.
        """
        use_reserved_threads()
        self.teller = Teller(board)
        if board:
            remember(board.habits)
        teller = self.teller  # not self: the worker must go when Ray Data lets go of it
        on_phase(lambda text: teller.tell(f"starting engine: {text}", phase=text))
        self._patience: list[Patience] = []
        started = self._patience  # nor here

        def patience() -> Patience:
            started.append(Patience(patience_s, teller.tell))
            return started[-1]

        self._speakers = Speakers(models, pools, judge, patience)
        self._storage = patience()
        self._most, self._fixed = most_open(actors, models.values()), actors.in_flight is not None
        self._gate: AdmissionGate | None = None

    async def may_start(self) -> bool:
        """Whether another turn may begin: within the run's limits, and while calls can succeed."""
        return not self.fault and await self.teller.within_limits()

    @asynccontextmanager
    async def conversation(
        self, name: str, roles: Mapping[str, str]
    ) -> AsyncIterator[dict[str, Engine]]:
        """Wait until there is room for one more, then hold it.

        Args:
            name: the conversation of `aloe.engines.Request`.
            roles: model name by role; the block gets the engines by role.
        """
        found = await self._speakers.of_roles(roles)
        engines: dict[str, Engine] = {
            role: CountedEngine(engine, self.teller) for role, engine in found.items()
        }
        if self._gate is None:
            self._gate = AdmissionGate(self._speakers.loads, self._most, self._fixed)
        async with self._gate.admitted():
            try:
                yield engines
            finally:
                self._speakers.release(name)
                self.teller.flush()

    async def unless_refused(self, work: Callable[[], Awaitable[T]], otherwise: T) -> tuple[T, str]:
        """Do a row's work, if another may start.

        Returns:
            What came of it, and why no more can be done here for now. A fault of the world is told,
            not raised: that would end what others have in flight.
        """
        found, fault = otherwise, ""
        if await self.may_start():
            try:
                found = await work()
            except WorldFault as error:
                fault = str(error)
        self.teller.flush()
        await self._hold_back()
        return found, self.fault or fault

    async def _hold_back(self) -> None:
        """Keep a row that cannot be done here, while other actors do theirs.

        Given back at once, it would be followed by the next, until all were used up by the one
        actor whose machine has lost its way to a server.
        """
        while self.fault and await self.teller.others_get_on():
            await asyncio.sleep(_HOLD_BACK_S)

    @property
    def fault(self) -> str:
        """What the world refuses for good, to this actor; empty while there is work to do."""
        return next((reason for patience in self._patience if (reason := patience.stopped)), "")

    async def store(self, work: Callable[..., T], *arguments: Any) -> T:
        """Read or write files, in a thread; what may pass by itself is waited for.

        Raises:
            WorldFault: it did not pass.
        """
        return await self._storage.call(lambda: asyncio.to_thread(work, *arguments))

    def __del__(self) -> None:
        # Ray Data lets go of the worker before its process ends: engines stop without a traceback.
        self._speakers.close()


def reserve(
    ray_config: RayConfig,
    key: str,
    actors: ActorPool,
    models: Mapping[str, ModelConfig],
    pooled: Mapping[str, VllmModel],
    more_cpus: float = 0.0,
) -> float:
    """(Logical) GPUs that one actor reserves, if the cluster can place all that is needed.

    Args:
        key: the setting that asks; named in the error.
        models: of the actors, by name; those that are not pooled live in each actor.
        pooled: models with engines of their own, see `aloe.engines.pool.pooled_models`.
        more_cpus: CPUs of what else the stage starts.

    Raises:
        UserError: see `aloe.runtime.require_resources`.
    """
    gpus = gpus_for(actors, (model for name, model in models.items() if name not in pooled))
    pool_gpus, pool_cpus = pool_resources(pooled)
    all_gpus = actors.min * gpus + pool_gpus
    all_cpus = actors.min * actors.num_cpus + pool_cpus + more_cpus
    require_resources(ray_config, key, all_gpus, all_cpus)
    keeping = kept()
    if keeping is not None:
        idle_gpus, idle_cpus = keeping.idle(pooled.values())
        if not has_resources(all_gpus + idle_gpus, all_cpus + idle_cpus):
            keeping.make_room(pooled.values(), f"{key} needs the room")
    return gpus


def most_open(actors: ActorPool, models: Iterable[ModelConfig]) -> int:
    """Most conversations that one actor may have open, whatever the load.

    A conversation has one or two calls in flight: twice what an engine computes at once is more
    than enough to fill it.
    """
    if actors.in_flight is not None:
        return actors.in_flight
    bounds = [_CONVERSATIONS]
    for model in models:
        if isinstance(model, VllmModel):
            bounds.append(2 * model.max_num_seqs * (model.pool.replicas if model.pool else 1))
        elif isinstance(model, OpenAIModel):
            bounds.append(model.max_concurrency)
    return max(bounds)


def run_rows(
    rows: list[dict[str, Any]],
    worker: type,
    arguments: dict[str, Any],
    actors: ActorPool,
    num_gpus: float,
    in_flight: int,
) -> Iterator[dict[str, Any]]:
    """Give each row to an actor of ``worker`` and yield its output rows in the order they finish.

    One row per block, so that a finished row leaves its actor at once.

    Args:
        rows: flat dicts with the same keys.
        worker: class whose ``async def __call__(self, batch)`` is an async generator that takes
            and yields batches of one row (dict of arrays).
        arguments: keyword arguments of the worker's constructor.
        actors: how many actors there are, and with what.
        num_gpus: (logical) GPUs per actor, see `aloe.engines.gpus_for`.
        in_flight: most rows that one actor has at once.
    """
    import ray.data

    _configure(ray.data.DataContext.get_current())
    # The first actor to be ready would take everything that fits.
    fair = min(in_flight, -(-len(rows) // actors.min))
    dataset = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        worker,
        fn_constructor_kwargs=arguments,
        batch_size=1,
        num_cpus=actors.num_cpus,
        num_gpus=num_gpus,
        compute=ray.data.ActorPoolStrategy(
            min_size=actors.min,
            max_size=actors.max,
            max_tasks_in_flight_per_actor=fair,
            max_concurrent_calls_per_actor=fair,
        ),
    )
    for row in dataset.iter_rows():
        raise_if_interrupted()
        yield row


def _configure(context: ray.data.DataContext) -> None:
    context.enable_progress_bars = False  # aloe.progress shows trees, tokens and time left
    context.execution_options.preserve_order = False
    context.raise_original_map_exception = True  # else a UserError or EngineDied loses its type
    logging.getLogger("ray.data").setLevel(logging.ERROR)
