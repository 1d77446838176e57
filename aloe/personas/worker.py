"""The Ray Data actor that holds the writer and encodes what it writes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from aloe.config import Config, speakers_of
from aloe.engines.actors import EngineWorker
from aloe.engines.board import BoardLink
from aloe.engines.pool import Pools
from aloe.errors import WorldFault
from aloe.personas.encode import SentenceEncoder
from aloe.personas.filter import Floats
from aloe.personas.growth import undecided
from aloe.personas.keeper import Job
from aloe.personas.writing import write_candidates
from aloe.roles import prompts_of


class PersonaWriter(EngineWorker):
    """Answers tickets: takes a request from the keeper, asks the model, hands the texts in."""

    def __init__(
        self, config: Config, keeper: Any, pools: Pools, board: BoardLink | None = None
    ) -> None:
        """``keeper`` is the actor handle of `aloe.personas.keeper.PoolKeeper`."""
        self._config, self._keeper = config.personas, keeper
        self._prompts = prompts_of(config)
        self._roles = dict(zip(["writer"], self._config.writers, strict=True))
        self._encoder: SentenceEncoder | None = None
        self._encoding = asyncio.Lock()
        models = speakers_of(config, self._config.writers)
        super().__init__(
            models, pools, self._config.actors, board, patience_s=config.run.patience_s
        )

    async def __call__(self, batch: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        ticket = int(batch["ticket"][0])
        job = await self._keeper.take.remote(ticket)
        accepted, tokens, fault = 0, 0, ""
        if job is not None:
            try:
                accepted, tokens = await self._write(job)
            except WorldFault as error:  # raised, it would end what others have in flight
                fault = self.fault or str(error)
                await self._keeper.give_up.remote()
        yield {
            "ticket": [ticket],
            "accepted": [accepted],
            "completion_tokens": [tokens],
            "fault": [fault],
        }

    async def _write(self, job: Job) -> tuple[int, int]:
        """Answer one request: how many texts joined, and the completion tokens of it."""
        name = f"{job.kind}-{job.round}-{job.request}"
        async with self.conversation(name, self._roles) as engines:
            outcome = await write_candidates(
                engines["writer"], job.kind, job.shown, self._config, job.seed, self._prompts
            )
        vectors = await self._encode(undecided(outcome))
        # Before it is handed in: that may open the next round.
        if not await self.teller.within_limits():
            await self._keeper.close.remote()
        try:
            accepted = await self._keeper.hand_in.remote(job, outcome, vectors)
        except WorldFault as fault:  # out of Ray's wrapper
            raise WorldFault(str(fault.args[0]), passes=False) from fault
        return int(accepted), sum(call["completion_tokens"] for call in outcome["calls"])

    async def _encode(self, texts: list[str]) -> Floats:
        # One request at a time: the encoder uses all the cores that it may.
        async with self._encoding:
            if self._encoder is None:
                self._encoder = await asyncio.to_thread(SentenceEncoder, self._config.encoder)
            return await asyncio.to_thread(self._encoder.encode, texts)
