"""The Ray Data actor of the benchmark: engines of one policy's cast and many open cases."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from aloe.config import Config
from aloe.engines import Speakers
from aloe.evaluation.case import Case, CaseFailed, play_case
from aloe.evaluation.policies import cast_of
from aloe.roles import Persona
from aloe.schema import ERRORS, SCORES
from aloe.storage import Store


class CaseWorker:
    """Plays one case per row, each a coroutine, and writes it when it is finished."""

    def __init__(self, config: Config, store: Store, policy: str) -> None:
        self._config, self._store, self._policy = config, store, policy
        self._roles, models = cast_of(config, store, policy)
        self._speakers = Speakers(models)

    async def __call__(self, batch: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        row = {key: str(values[0]) for key, values in batch.items()}
        persona = Persona(row["persona_id"], row["profile"], row["personality"])
        case = Case(row["case_id"], self._policy, persona, self._config.run.seed)
        engines = {role: await self._speakers.get(name) for role, name in self._roles.items()}
        try:
            rows = await play_case(case, engines, self._config.evaluation)
            self._store.write_table(f"evaluation/scores/{case.case_id}.parquet", rows, SCORES)
        except CaseFailed as error:
            rows = [error.row]
            self._store.write_table(f"evaluation/errors/{case.case_id}.parquet", rows, ERRORS)
        tokens = sum(call["completion_tokens"] for turn in rows for call in turn["calls"])
        yield {"case_id": [case.case_id], "completion_tokens": [tokens]}

    def __del__(self) -> None:
        # Ray Data lets go of the worker before its process ends: engines stop without a traceback.
        self._speakers.close()
