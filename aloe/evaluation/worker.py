"""The Ray Data actor of the benchmark: engines of one policy's cast and many open cases."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from aloe.config import Config
from aloe.engines.actors import EngineWorker
from aloe.engines.pool import Pools
from aloe.errors import WorldFault
from aloe.evaluation.case import Case, CaseFailed, play_case
from aloe.evaluation.policies import cast_of
from aloe.roles import persona_of
from aloe.schema import ERRORS, SCORES
from aloe.storage import Store


class CaseWorker(EngineWorker):
    """Plays one case per row, each a coroutine, and writes it when it is finished."""

    def __init__(
        self, config: Config, store: Store, policy: str, pools: Pools, board: Any = None
    ) -> None:
        self._config, self._store, self._policy = config, store, policy
        self._roles, models = cast_of(config, store, policy)
        super().__init__(models, pools, config.evaluation.actors, board, config.run.patience_s)

    async def __call__(self, batch: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        row: dict[str, Any] = {key: str(values[0]) for key, values in batch.items()}
        persona = persona_of(row | {"preferences": row["preferences"].split()})
        case = Case(row["case_id"], self._policy, persona, self._config.run.seed)
        stopped = self.stopped
        if not stopped:
            try:
                await self._play(case)
            except WorldFault as fault:  # raised, it would end what others have in flight
                stopped = self.stopped or str(fault)
        yield {"case_id": [case.case_id], "stopped": [stopped or ""]}

    async def _play(self, case: Case) -> None:
        async with self.conversation(case.case_id, self._roles) as engines:
            try:
                rows = await play_case(case, engines, self._config.evaluation, self._tell)
                folder, schema = "scores", SCORES
            except CaseFailed as error:
                rows, folder, schema = [error.row], "errors", ERRORS
        name = f"evaluation/{folder}/{case.case_id}.parquet"
        await self.store(self._store.write_table, name, rows, schema)

    def _tell(self, row: dict[str, Any]) -> None:
        self.teller.turn(1, sum(call["completion_tokens"] for call in row["calls"]))
