"""The Ray Data actor of the rollout: engines, and the open trees of several parts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from aloe.config import Config, speakers_of
from aloe.dialogue import parts
from aloe.dialogue.branches import nodes_per_turn
from aloe.dialogue.look import told_turn
from aloe.dialogue.parts import Plan, Row
from aloe.dialogue.tree import TreeFailed, TreeSeed, grow_tree
from aloe.engines.actors import EngineWorker
from aloe.engines.board import BoardLink
from aloe.engines.pool import Pools
from aloe.errors import StageStopped, WorldFault
from aloe.roles import persona_of
from aloe.schema import stable_id
from aloe.storage import Store

_SHOWN_TURNS = 2
"""Turns of the first tree that are shown while it grows."""
_STARTS = 5
"""Starts of a part without one finished turn in between before its open trees are given up."""


class RolloutWorker(EngineWorker):
    """Rolls out one part per row; its trees are written as they grow."""

    def __init__(
        self,
        config: Config,
        store: Store,
        fingerprint: str,
        plan: Plan,
        pools: Pools,
        board: BoardLink | None = None,
    ) -> None:
        self._roles: dict[str, str] = config.roles.model_dump()
        models = speakers_of(config, list(self._roles.values()))
        super().__init__(models, pools, config.dialogue.actors, board, config.judge)
        self._config, self._store, self._plan = config, store, plan
        self._fingerprint = fingerprint

    async def __call__(self, batch: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        number = int(batch["part"][0])
        # What is left out for now is not even read.
        within = await self.may_start()
        summary = await self._roll_out(number) if within else None
        trees = summary.trees + summary.failed_trees if summary else 0
        yield {"part": [number], "trees": [trees], "fault": [self.fault]}

    async def _roll_out(self, number: int) -> parts.Summary | None:
        """What the part came to; None if trees of it were stopped and stay open."""
        part = self._plan.name(number)
        rows = self._plan.personas(number)
        seeds = [
            self._seed(row)
            for row in await asyncio.to_thread(parts.read_personas, self._store, rows)
        ]
        grown, failed = await asyncio.to_thread(parts.read_log, self._store, part)
        turns = sum(map(len, grown.values())) + len(failed)
        starts = await asyncio.to_thread(parts.count_start, self._store, part, turns)
        if starts > _STARTS:
            failed |= {
                seed.tree_id: _given_up(seed, starts)
                for seed in seeds
                if seed.tree_id not in failed
            }
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(
                    self._grow(part, seed, grown.get(seed.tree_id, []), number == index == 0)
                )
                for index, seed in enumerate(seeds)
                if seed.tree_id not in failed
            ]
        ended = [task.result() for task in tasks]
        self.teller.flush()
        if None in ended:  # this start has not ended the actor, whether or not a turn was finished
            await asyncio.to_thread(parts.forget_starts, self._store, part)
            return None
        trees = [rows for rows in ended if isinstance(rows, list)]
        lost = [*failed.values(), *(row for row in ended if isinstance(row, dict))]
        lost.sort(key=lambda row: row["item_id"])
        return await asyncio.to_thread(parts.write_part, self._store, part, trees, lost)

    async def _grow(
        self, part: str, seed: TreeSeed, rows: list[Row], shown: bool
    ) -> list[Row] | Row | None:
        """Rows of the tree, the row of its error, or None if it was stopped and stays open.

        Args:
            shown: tell about it while it grows.
        """
        each = nodes_per_turn(self._config.dialogue)
        self.teller.turn(len(rows) // each, 0)  # of a start before
        known = {row["node_id"] for row in rows}
        async with self.conversation(seed.tree_id, self._roles) as engines:

            async def keep(finished: list[Row]) -> None:
                await asyncio.to_thread(parts.log_turns, self._store, part, seed.tree_id, finished)
                fresh = [row for row in finished if row["node_id"] not in known]
                known.update(row["node_id"] for row in fresh)
                calls = (call for row in fresh for call in row["calls"])
                self.teller.turn(
                    len(fresh) // each, sum(call["completion_tokens"] for call in calls)
                )
                if shown and len(known) // each <= _SHOWN_TURNS:
                    self.teller.tell(told_turn(seed.persona, fresh))

            try:
                return await grow_tree(
                    seed, engines, self._config.dialogue, rows, keep, self.may_start
                )
            except StageStopped:
                return None
            except WorldFault as fault:  # raised, it would end what others have in flight
                self.fault = self.fault or str(fault)
                return None
            except TreeFailed as error:
                await asyncio.to_thread(parts.log_failure, self._store, part, error.row)
                return error.row

    def _seed(self, row: Row) -> TreeSeed:
        seed = self._config.run.seed
        return TreeSeed(
            stable_id(row["persona_id"], seed, self._fingerprint),
            persona_of(row),
            row["split"],
            seed,
            self._fingerprint,
        )


def _given_up(seed: TreeSeed, starts: int) -> Row:
    return {
        "stage": parts.STAGE,
        "item_id": seed.tree_id,
        "persona_id": seed.persona.persona_id,
        "turn": None,
        "role": None,
        "kind": "ActorDied",
        "message": f"the actor ended {starts - 1} times while this tree was open",
        "calls": [],
    }
