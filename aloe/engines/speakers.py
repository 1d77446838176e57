"""The engines that one actor holds: one per distinct model, shared by all roles that name it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping

from aloe.config import ActorPool, ModelConfig, OpenAIModel, ScriptedModel, VllmModel
from aloe.engines.base import Engine


class Speakers:
    """Engines by model name. Two names with the same settings share one engine.

    Engines start at the first `get`, inside the event loop that will use them.
    """

    def __init__(self, models: Mapping[str, ModelConfig]) -> None:
        self._models = dict(models)
        self._engines: dict[ModelConfig, asyncio.Future[Engine]] = {}

    async def get(self, name: str) -> Engine:
        """The engine of a model; concurrent callers wait for the same start."""
        model = self._models[name]
        if model not in self._engines:
            future: asyncio.Future[Engine] = asyncio.get_running_loop().create_future()
            self._engines[model] = future
            try:
                future.set_result(await asyncio.to_thread(_start, name, model, self._vllm_count()))
            except Exception as error:
                del self._engines[model]
                future.set_exception(error)
                future.exception()  # marks it as seen where nobody else waits
                raise
        return await self._engines[model]

    def _vllm_count(self) -> int:
        return len({m for m in self._models.values() if isinstance(m, VllmModel)})

    def close(self) -> None:
        """Close every engine that was started."""
        started, self._engines = list(self._engines.values()), {}
        for future in started:
            if future.done() and not future.exception():
                future.result().close()


def _start(name: str, model: ModelConfig, vllm_engines: int) -> Engine:
    # Each backend's import is heavy and only needed by actors that use it.
    match model:
        case VllmModel():
            from aloe.engines.vllm import VllmEngine

            return VllmEngine(name, model, share_cores=vllm_engines > 1)
        case OpenAIModel():
            from aloe.engines.openai import OpenAIEngine

            return OpenAIEngine(name, model)
        case ScriptedModel():
            from aloe.engines.scripted import ScriptedEngine

            return ScriptedEngine(name, model)


def gpus_for(pool: ActorPool, models: Iterable[ModelConfig]) -> float:
    """GPUs (logical ones on a CPU) that one actor with these models reserves."""
    if pool.num_gpus is not None:
        return pool.num_gpus
    engines = {model for model in models if isinstance(model, VllmModel)}
    return float(max((model.tensor_parallel_size for model in engines), default=0))


def check_models(models: Iterable[ModelConfig]) -> None:
    """Find out before anything starts whether checkpoints exist and servers answer.

    Raises:
        UserError: naming the model and what is missing.
    """
    for model in models:
        match model:
            case VllmModel():
                from aloe.engines.embedded import check_checkpoint

                check_checkpoint(model.path)
            case OpenAIModel():
                from aloe.engines.openai import check_server

                check_server(model)
            case ScriptedModel():
                pass
