"""The Ray Data actor of the rollout: engines, and the open trees of several parts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from aloe.config import Config, speakers_of
from aloe.dialogue import parts
from aloe.dialogue.branches import nodes_per_turn, turns_per_tree
from aloe.dialogue.log import STAGE, TurnLog, read_log, write_log
from aloe.dialogue.look import told_turn
from aloe.dialogue.parts import Plan, Row
from aloe.dialogue.start import histories
from aloe.dialogue.tree import Tree, TreeSeed, grow_tree
from aloe.engines import Message
from aloe.engines.actors import EngineWorker
from aloe.engines.board import BoardLink
from aloe.engines.pool import Pools
from aloe.errors import StageStopped, WorldFault
from aloe.roles import persona_of, prompts_of
from aloe.schema import stable_id
from aloe.storage import Store
from aloe.storage.s3 import is_s3

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
        run = config.run
        super().__init__(models, pools, config.dialogue.actors, board, config.judge, run.patience_s)
        self._config, self._store, self._plan = config, store, plan
        self._fingerprint, self._prompts = fingerprint, prompts_of(config)

    async def __call__(self, batch: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        number = int(batch["part"][0])
        trees, fault = await self.unless_refused(lambda: self._finished_trees(number), 0)
        yield {"part": [number], "trees": [trees], "fault": [fault]}

    async def _finished_trees(self, number: int) -> int:
        """Roll out a part; the number of its trees, 0 where it stays open."""
        try:
            summary = await self._roll_out(number)
        except StageStopped:
            return 0
        return summary.trees + summary.failed_trees

    async def _roll_out(self, number: int) -> parts.Summary:
        """Grow all trees of a part, then make it final.

        Raises:
            StageStopped: it stays open, with what is finished.
            WorldFault: the same.
        """
        part, shape = self._plan.name(number), self._config.dialogue
        rows = self._plan.personas(number)
        personas = await self.store(parts.read_personas, self._store, rows)
        before_it = await self.store(histories, self._store, self._plan, number)
        seeds = [self._seed(row, history) for row, history in zip(personas, before_it, strict=True)]
        grown, ends, files = await self.store(read_log, self._store, part)
        ended = sum(map(len, [*grown.values(), *ends.values()]))
        starts = await self.store(parts.starts_of, self._store, part, ended)
        before = [Tree(grown.get(seed.tree_id, []), ends.get(seed.tree_id, [])) for seed in seeds]
        if starts >= _STARTS:
            trees = [
                self._given_up(seed, tree, starts) for seed, tree in zip(seeds, before, strict=True)
            ]
        else:
            log = TurnLog(partial(self._log, part), files, is_s3(self._store.root))
            begun = False

            async def begin() -> None:  # not before: a part may wait long for room
                nonlocal begun
                if not begun:
                    begun = True
                    await self.store(parts.count_start, self._store, part, ended)

            found = await asyncio.gather(
                *(
                    self._grow(log, begin, seed, tree, number == index == 0)
                    for index, (seed, tree) in enumerate(zip(seeds, before, strict=True))
                ),
                return_exceptions=True,  # nobody is cancelled in the middle of a turn
            )
            await self._raise_first(part, log, found)
            await log.close()
            trees = [tree for tree in found if isinstance(tree, Tree)]
        return await self.store(parts.write_part, self._store, part, trees, shape)

    async def _log(self, part: str, number: int, turns: list[Row], ends: list[Row]) -> None:
        await self.store(write_log, self._store, part, number, turns, ends)

    async def _raise_first(
        self, part: str, log: TurnLog, found: Sequence[Tree | BaseException]
    ) -> None:
        """Raise what ended a tree early: a fault of ours, else one of the world, else a limit."""
        failures = [tree for tree in found if isinstance(tree, BaseException)]
        in_order = [failure for failure in failures if isinstance(failure, StageStopped)]
        faults = [failure for failure in failures if isinstance(failure, WorldFault)]
        for failure in failures:
            if failure not in in_order and failure not in faults:
                raise failure
        if failures:
            with suppress(WorldFault):
                await log.flush()
                await asyncio.to_thread(parts.forget_start, self._store, part)
            raise [*faults, *in_order][0]

    async def _grow(
        self,
        log: TurnLog,
        begin: Callable[[], Awaitable[None]],
        seed: TreeSeed,
        before: Tree,
        shown: bool,
    ) -> Tree:
        """Grow a tree to its end; ``begin`` when there is room for it, ``shown`` while it grows."""
        each = nodes_per_turn(self._config.dialogue)
        self.teller.turn(len(before.rows) // each, 0)  # of a start before
        known = {row["node_id"] for row in before.rows}

        async def keep(finished: list[Row]) -> None:
            fresh = [row for row in finished if row["node_id"] not in known]
            known.update(row["node_id"] for row in fresh)
            await log.keep(fresh)
            calls = (call for row in fresh for call in row["calls"])
            self.teller.turn(len(fresh) // each, sum(call["completion_tokens"] for call in calls))
            if shown and len(known) // each <= _SHOWN_TURNS:
                self.teller.tell(told_turn(seed.persona, fresh))

        async def keep_ends(ends: list[Row]) -> None:
            await log.keep(ends=ends)

        async with self.conversation(seed.tree_id, self._roles) as engines:
            await begin()
            return await grow_tree(
                seed,
                engines,
                self._config.dialogue,
                before.rows,
                keep,
                before.ends,
                keep_ends,
                self.may_start,
            )

    def _seed(self, row: Row, history: list[Message]) -> TreeSeed:
        seed = self._config.run.seed
        return TreeSeed(
            stable_id(row["persona_id"], seed, self._fingerprint),
            persona_of(row, self._config.personas.twins.planned),
            row["split"],
            seed,
            self._fingerprint,
            self._prompts,
            tuple(history),
        )

    def _given_up(self, seed: TreeSeed, tree: Tree, starts: int) -> Tree:
        """The tree with what it has, and why there is no more of it."""
        shape = self._config.dialogue
        if len(tree.rows) == turns_per_tree(shape) * nodes_per_turn(shape):
            return tree
        row: Row = {
            "stage": STAGE,
            "item_id": seed.tree_id,
            "persona_id": seed.persona.persona_id,
            "turn": None,
            "branch": None,
            "role": None,
            "kind": "ActorDied",
            "message": f"the actor ended {starts} times while this tree was open",
            "calls": [],
        }
        return Tree(tree.rows, [*tree.ends, row])
