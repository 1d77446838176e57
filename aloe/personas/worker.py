"""The Ray Data actor that holds the writer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from aloe.config import Config, speakers_of
from aloe.engines import Speakers
from aloe.personas.writing import write_candidates


class PersonaWriter:
    """Answers tickets: takes a request from the keeper, asks the model, hands the texts in."""

    def __init__(self, config: Config, keeper: Any) -> None:
        """``keeper`` is the actor handle of `aloe.personas.keeper.PoolKeeper`."""
        self._config, self._keeper = config.personas, keeper
        self._speakers = Speakers(speakers_of(config, [config.personas.writer]))

    async def __call__(self, batch: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        ticket = int(batch["ticket"][0])
        job = await self._keeper.take.remote(ticket)
        accepted = tokens = 0
        if job is not None:
            engine = await self._speakers.get(self._config.writer)
            outcome = await write_candidates(engine, job.kind, job.shown, self._config, job.seed)
            tokens = sum(call["completion_tokens"] for call in outcome["calls"])
            accepted = await self._keeper.hand_in.remote(job, outcome)
        yield {"ticket": [ticket], "accepted": [accepted], "completion_tokens": [tokens]}

    def __del__(self) -> None:
        # Ray Data lets go of the worker before its process ends: engines stop without a traceback.
        self._speakers.close()
