"""Replies of a given conversation, scored one by one as those of the benchmark are."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from aloe.config import Config
from aloe.engines import Engine, Message
from aloe.engines.actors import EngineWorker
from aloe.engines.board import BoardLink
from aloe.engines.pool import Pools
from aloe.errors import CallFailed, WorldFault
from aloe.evaluation.case import Case, error_row
from aloe.roles import expected_score, persona_of, prompts_of, score, within
from aloe.schema import ERRORS, GIVEN, SCORES, derive_seed
from aloe.storage import Store
from aloe.storage.slices import read_slice

POLICY = "given"
"""Name of whoever wrote the replies."""

Row = dict[str, Any]


class Stopped(Exception):
    """A reply may not be scored now."""


async def judge_replies(
    case: Case, messages: Sequence[Message], judge: Engine, tries: int
) -> tuple[list[Row], list[Row]]:
    """Score every reply of one conversation.

    Returns:
        Rows of `aloe.schema.SCORES`, one per reply; and, where a call failed for good, a row of
        ERRORS instead of all of them.
    """
    engine = within({"judge": judge}, case.case_id)["judge"]
    rows: list[Row] = []
    for turn, place in enumerate(range(1, len(messages), 2), start=1):
        said, heard = messages[place]["content"], messages[:place]
        seed = derive_seed(case.seed, case.case_id, turn)
        try:
            rating = await score(engine, case.persona, heard, said, tries, seed, case.prompts)
        except CallFailed as error:
            spent = [call for row in rows for call in row["calls"]]
            return [], [error_row(case, turn, error, spent)]
        rows.append(
            {
                "case_id": case.case_id,
                "policy": case.policy,
                "persona_id": case.persona.persona_id,
                "turn": turn,
                "user": heard[-1]["content"],
                "reply": said,
                "reasoning": None,
                "finish_reason": None,
                "score": expected_score(rating.value),
                "probabilities": rating.value,
                "calls": [rating.call],
            }
        )
    return rows, []


class JudgeWorker(EngineWorker):
    """Judges a part of the conversations per row and writes it when all of it is done."""

    def __init__(
        self,
        config: Config,
        store: Store,
        folder: str,
        part_size: int,
        pools: Pools,
        board: BoardLink | None = None,
    ) -> None:
        """``folder`` holds ``conversations.parquet``, of which a part is ``part_size`` rows."""
        self._config, self._store, self._folder = config, store, folder
        self._part_size, self._prompts = part_size, prompts_of(config)
        name = config.roles.judge
        self._roles = {"judge": name}
        super().__init__(
            {name: config.models[name]},
            pools,
            config.evaluation.actors,
            board,
            config.judge,
            config.run.patience_s,
        )

    async def __call__(self, batch: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        part, size = int(batch["part"][0]), int(batch["size"][0])
        done, fault = await self.unless_refused(lambda: self._judge(part, size), 0)
        yield {"part": [part], "judged": [done], "fault": [fault]}

    async def _judge_one(self, row: Row) -> tuple[list[Row], list[Row]]:
        seed = self._config.run.seed
        case = Case(row["case_id"], POLICY, persona_of(row), seed, self._prompts)
        async with self.conversation(case.case_id, self._roles) as engines:
            if not await self.may_start():
                raise Stopped
            tries = self._config.evaluation.tries
            return await judge_replies(case, row["messages"], engines["judge"], tries)

    async def _judge(self, part: int, size: int) -> int:
        """Judge a part and write it; how many conversations, 0 where it stays open.

        Raises:
            WorldFault: it stays open. What is judged of it is kept in either case.
        """
        file, first = f"{self._folder}/conversations.parquet", part * self._part_size
        places = np.arange(first, first + size)
        rows = (await self.store(read_slice, self._store, file, GIVEN, places)).to_pylist()
        name = f"{part:08d}.parquet"
        scores = await self.store(self._begun, name)
        owed = [row for row in rows if row["case_id"] not in scores]
        found = await asyncio.gather(*map(self._judge_one, owed), return_exceptions=True)
        errors: list[Row] = []
        failures: list[BaseException] = []
        for row, outcome in zip(owed, found, strict=True):
            if isinstance(outcome, BaseException):
                failures.append(outcome)
            else:
                scores[row["case_id"]], failed = outcome
                errors += failed
        judged = [line for row in rows for line in scores.get(row["case_id"], [])]
        if failures:
            with suppress(WorldFault):
                await self.store(
                    self._store.write_table, f"{self._folder}/open/{name}", judged, SCORES
                )
            return _stopped(failures)
        if errors:
            await self.store(
                self._store.write_table, f"{self._folder}/errors/{name}", errors, ERRORS
            )
        await self.store(self._store.write_table, f"{self._folder}/scores/{name}", judged, SCORES)
        return size

    def _begun(self, name: str) -> dict[str, list[Row]]:
        """Scores of a part that was stopped, by conversation."""
        found: dict[str, list[Row]] = {}
        if self._store.exists(self._folder, "open", name):
            table = self._store.read_table(f"{self._folder}/open/{name}", SCORES)
            for row in table.to_pylist():
                found.setdefault(row["case_id"], []).append(row)
        return found


def _stopped(failures: Sequence[BaseException]) -> int:
    """0 where all of them are limits; else raises the first that is none."""
    for failure in failures:
        if not isinstance(failure, Stopped):
            raise failure
    return 0
