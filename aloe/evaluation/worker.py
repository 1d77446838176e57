"""The Ray Data actor of the benchmark: engines of one policy's cast and many open cases."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from aloe.config import Config
from aloe.engines.actors import EngineWorker
from aloe.engines.board import BoardLink
from aloe.engines.pool import Pools
from aloe.errors import WorldFault
from aloe.evaluation.case import Case, CaseFailed, CaseStopped, play_case
from aloe.evaluation.policies import cast_of, persona_under, program_of
from aloe.roles import prompts_of
from aloe.schema import ERRORS, SCORES
from aloe.storage import Store

OPEN = "evaluation/open"
"""Finished turns of cases that were stopped, by case; rows of `aloe.schema.SCORES`."""


class CaseWorker(EngineWorker):
    """Plays one case per row, each a coroutine, and writes it when it is finished."""

    def __init__(
        self,
        config: Config,
        store: Store,
        policy: str,
        pools: Pools,
        board: BoardLink | None = None,
    ) -> None:
        self._config, self._store, self._policy = config, store, policy
        self._prompts = prompts_of(config)
        self._roles, models = cast_of(config, store, policy)
        super().__init__(
            models, pools, config.evaluation.actors, board, config.judge, config.run.patience_s
        )

    async def __call__(self, batch: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        row: dict[str, Any] = {key: str(values[0]) for key, values in batch.items()}
        case = self._case(row)
        begun = bool(batch["begun"][0])
        ended, fault = await self.unless_refused(lambda: self._play(case, begun), False)
        yield {"ended": [ended], "fault": [fault]}

    def _case(self, row: dict[str, Any]) -> Case:
        settings = self._config.evaluation
        known = {"preferences": row["preferences"].split(), "twin_id": row["twin_id"] or None}
        persona = persona_under(self._config, self._policy, row | known)
        return Case(
            row["case_id"],
            self._policy,
            persona,
            self._config.run.seed,
            self._prompts,
            settings.condition(self._policy).reads,
            program_of(settings.policies[self._policy]),
            self._config.personas.twins.pairs,
        )

    async def _play(self, case: Case, begun: bool) -> bool:
        """Play a case to its end, or to where it is stopped; returns whether it has ended.

        Raises:
            WorldFault: nobody can be asked, or nothing be written, now.
        """
        file = f"{OPEN}/{case.case_id}.parquet"
        before: list[dict[str, Any]] = []
        if begun:
            before = (await self.store(self._store.read_table, file, SCORES)).to_pylist()
            self.teller.turn(len(before), 0)
        turns = self._config.evaluation.turns

        async def keep(rows: list[dict[str, Any]]) -> None:
            self.teller.turn(1, sum(call["completion_tokens"] for call in rows[-1]["calls"]))
            if len(rows) < turns:
                await self.store(self._store.write_table, file, rows, SCORES)

        async with self.conversation(case.case_id, self._roles) as engines:
            try:
                rows = await play_case(
                    case, engines, self._config.evaluation, keep, before, self.may_start
                )
                folder, schema = "scores", SCORES
            except CaseFailed as error:
                rows, folder, schema = [error.row], "errors", ERRORS
                # Its turns are counted there; tried again, it begins anew.
                await self.store(self._store.remove, file)
            except CaseStopped as stopped:
                if isinstance(stopped.__cause__, WorldFault):
                    raise stopped.__cause__ from stopped
                return False
        name = f"evaluation/{folder}/{case.case_id}.parquet"
        await self.store(self._store.write_table, name, rows, schema)
        return True
