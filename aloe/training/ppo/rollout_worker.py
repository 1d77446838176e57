"""A rollout engine: speaks for the policy, with weights that the trainer sends."""

from __future__ import annotations

from aloe.training.accelerator import prepare

prepare()

import asyncio  # noqa: E402  (nothing of OpenRLHF may be imported before prepare)
from collections.abc import Mapping  # noqa: E402
from typing import Any  # noqa: E402

import ray  # noqa: E402
from openrlhf.trainer.ray.vllm_engine import RolloutRayActor  # noqa: E402

from aloe.config import ActorPool, Config, OpenAIModel, VllmModel  # noqa: E402
from aloe.engines.actors import AdmissionGate, most_open  # noqa: E402
from aloe.engines.openai_parameters import Habits, remember  # noqa: E402
from aloe.engines.patience import Patience  # noqa: E402
from aloe.engines.pool import Pools  # noqa: E402
from aloe.engines.speakers import Speakers  # noqa: E402
from aloe.engines.vllm import VllmEngine  # noqa: E402
from aloe.machine import use_reserved_threads  # noqa: E402
from aloe.progress import say  # noqa: E402
from aloe.roles import prompts_of  # noqa: E402
from aloe.storage import use_storage  # noqa: E402
from aloe.training.accelerator import WORKER_ENV  # noqa: E402
from aloe.training.ppo.episode import Conversation  # noqa: E402

_SYNC = {
    "worker_extension_cls": "aloe.training.ppo.engine_sync.SyncedWorker",
    "logprobs_mode": "processed_logprobs",  # of the distribution that is sampled from
}


@ray.remote(runtime_env=WORKER_ENV)  # type: ignore[call-overload]
class RolloutWorker(RolloutRayActor.__ray_metadata__.modified_class):  # type: ignore[misc,name-defined]
    """OpenRLHF's rollout actor around our engine: one on each device of ``placements.rollout``."""

    def __init__(self, *_: Any) -> None:
        """Takes what every rank of a group is told; engines do not need to know each other."""
        return None

    async def load(
        self,
        config: Config,
        model: VllmModel,
        others: dict[str, str],
        pools: Pools,
        habits: Mapping[OpenAIModel, Habits],
    ) -> None:
        """Start the engine.

        Args:
            model: of the policy, with the checkpoint that it starts from.
            others: model name of user and judge.
            pools: engines of those that are vLLM models.
            habits: what is known of their servers.

        Raises:
            UserError: the checkpoint is missing.
        """
        remember(habits)
        use_storage(config.storage)
        use_reserved_threads()
        assert config.training.ppo is not None
        options = config.training.ppo
        self._engine = await asyncio.to_thread(VllmEngine, "policy", model, True, _SYNC)
        self.llm = self._engine.llm
        models = {name: config.models[name] for name in others.values()}
        self._speakers = Speakers(
            models, pools, config.judge, lambda: Patience(config.run.patience_s, say)
        )
        engines = await self._speakers.of_roles(others)
        most = most_open(ActorPool(), [model, *models.values()])

        def loads() -> list[Any]:
            return [self._engine.load(), *self._speakers.loads()]

        self._gate = AdmissionGate(loads, most, False)
        self.executor = Conversation(
            self._engine,
            engines,
            options,
            config.dialogue.sampling,
            prompts_of(config),
            config.personas.twins.planned,
        )

    async def generate_responses(self, *arguments: Any, **options: Any) -> list[dict[str, Any]]:
        """OpenRLHF's way to ask for the episodes of one prompt; begins when there is room."""
        async with self._gate.admitted():
            found: list[dict[str, Any]] = await super().generate_responses(*arguments, **options)
            return found

    def busy_s(self) -> float:
        """Seconds in which the engine computed, since it started."""
        return self._engine.stats.busy_s

    async def log_probs(self, ids: list[int]) -> list[float]:
        """What the engine gives each token but the first, after those before it."""
        from vllm.sampling_params import RequestOutputKind, SamplingParams

        params = SamplingParams(
            max_tokens=1, prompt_logprobs=0, output_kind=RequestOutputKind.FINAL_ONLY
        )
        output = await self._engine.generate(ids, params)
        told = output.prompt_logprobs or []
        return [told[i][token].logprob for i, token in enumerate(ids) if i]  # type: ignore[index]

    async def reset_prefix_cache(self) -> None:
        """What was cached is of other weights."""
        await self._engine.forget_prefixes()

    async def init_process_group(self, *arguments: Any, **_: Any) -> None:
        await self.llm.collective_rpc("init_process_group", args=arguments)

    async def update_weight(self, name: str, dtype: Any, shape: Any, **_: Any) -> None:
        # In words and lists: vLLM would otherwise have to unpickle what it is sent.
        kind = str(dtype).removeprefix("torch.")
        await self.llm.collective_rpc("update_weight", args=(name, kind, list(shape)))

    def stop(self) -> None:
        self._engine.close()
