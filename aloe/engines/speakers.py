"""The engines that one actor speaks through: one per distinct model, shared by all its roles."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping

from aloe.config import (
    ActorPool,
    JudgeConfig,
    ModelConfig,
    OpenAIModel,
    ScriptedModel,
    VerifiableModel,
    VllmModel,
)
from aloe.engines.base import Engine, Load, Looking
from aloe.engines.judging import Judge
from aloe.engines.patience import Patience, PatientEngine
from aloe.engines.pool import PooledEngine, Pools
from aloe.engines.start import start_engine


class Speakers:
    """Engines by model name. Two names with the same settings share one engine.

    Engines start at the first `get`, inside the event loop that will use them; those of a pool are
    there already.
    """

    def __init__(
        self,
        models: Mapping[str, ModelConfig],
        pools: Pools | None = None,
        judge: JudgeConfig | None = None,
        patience: Callable[[], Patience] | None = None,
    ) -> None:
        """Start nothing yet.

        Args:
            pools: engines outside this process, see `aloe.engines.pool.open_pools`.
            judge: how a judge's choices get probabilities.
            patience: called once for each engine, whose callers then wait together for what may
                pass by itself; without it they see each `aloe.errors.WorldFault`.
        """
        self._models, self._pools, self._patience = dict(models), pools or {}, patience
        self._judge = judge or JudgeConfig()
        self._judges: dict[str, Judge] = {}
        self._engines: dict[ModelConfig, asyncio.Future[Engine]] = {}

    async def get(self, name: str) -> Engine:
        """The engine of a model; concurrent callers wait for the same start."""
        model = self._models[name]
        if model not in self._engines:
            future: asyncio.Future[Engine] = asyncio.get_running_loop().create_future()
            self._engines[model] = future
            try:
                patience = self._patience() if self._patience else None
                engine = await self._start(name, model, patience)
                if patience and isinstance(engine, Looking):
                    patience.canary = engine.look
                future.set_result(PatientEngine(engine, patience) if patience else engine)
            except Exception as error:
                del self._engines[model]
                future.set_exception(error)
                future.exception()  # marks it as seen where nobody else waits
                raise
        return await self._engines[model]

    async def of_roles(self, roles: Mapping[str, str]) -> dict[str, Engine]:
        """Engine by role, from model name by role."""
        engines = {role: await self.get(name) for role, name in roles.items()}
        name = roles.get("judge")
        if name is not None and isinstance(self._models[name], OpenAIModel | VllmModel):
            if name not in self._judges:
                self._judges[name] = Judge(engines["judge"], self._judge)
            engines["judge"] = self._judges[name]
        return engines

    async def _start(self, name: str, model: ModelConfig, patience: Patience | None) -> Engine:
        if name in self._pools:
            return PooledEngine(name, self._pools[name])
        vllm = {m for m in self._models.values() if isinstance(m, VllmModel)}
        trouble = patience.trouble if patience else None
        return await asyncio.to_thread(start_engine, name, model, len(vllm) > 1, trouble)

    def _started(self) -> list[Engine]:
        every = self._engines.values()
        return [future.result() for future in every if future.done() and not future.exception()]

    def loads(self) -> list[Load]:
        """How busy each engine is that has started."""
        return [engine.load() for engine in self._started()]

    def release(self, conversation: str) -> None:
        """Tell every engine that a conversation has ended."""
        for engine in self._started():
            engine.release(conversation)

    def close(self) -> None:
        """Close every engine that was started."""
        started, self._engines = self._started(), {}
        for engine in started:
            engine.close()


def gpus_for(pool: ActorPool, models: Iterable[ModelConfig]) -> float:
    """GPUs (logical ones on a CPU) that one actor reserves.

    Args:
        models: those whose engines live in the actor, not in a pool.
    """
    if pool.num_gpus is not None:
        return pool.num_gpus
    engines = {model for model in models if isinstance(model, VllmModel)}
    return float(max((model.tensor_parallel_size for model in engines), default=0))


def check_models(models: Iterable[ModelConfig], servers: bool = True) -> None:
    """Find out before anything starts whether checkpoints exist and servers answer.

    Args:
        servers: ask these too; within a run, workers wait for one that is down.

    Raises:
        UserError: naming the model and what is missing, or a folder that is too long for sockets.
        WorldFault: a server does not answer.
    """
    for model in models:
        match model:
            case VllmModel():
                from aloe.engines.embedded import check_checkpoint
                from aloe.engines.vllm_sockets import shorten_sockets

                check_checkpoint(model.path)
                shorten_sockets()
            case OpenAIModel() if servers:
                from aloe.engines.openai import check_server

                check_server(model)
            case OpenAIModel() | ScriptedModel() | VerifiableModel():
                pass
