"""One dialogue tree: turns that branch, each branch a task of its own (paper section 3)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping

from aloe.config import DialogueConfig
from aloe.dialogue.branches import branches_after, nodes_per_turn, picks
from aloe.dialogue.rows import (
    Row,
    TreeSeed,
    answered_by,
    error_row,
    finished_turns,
    in_order,
    turn_rows,
    turn_seed,
)
from aloe.dialogue.turn import hold_turn
from aloe.engines import Engine, Message
from aloe.errors import CallFailed, StageStopped
from aloe.roles import within

Keep = Callable[[list[Row]], Awaitable[None]]
MayStart = Callable[[], Awaitable[bool]]

__all__ = ["Keep", "MayStart", "TreeFailed", "TreeSeed", "grow_tree"]


class TreeFailed(Exception):
    """A call of this tree failed for good; carries the row for the errors table."""

    def __init__(self, row: Row) -> None:
        super().__init__(row["message"])
        self.row = row


async def grow_tree(
    start: TreeSeed,
    engines: Mapping[str, Engine],
    config: DialogueConfig,
    rows: Iterable[Row] = (),
    keep: Keep | None = None,
    may_start: MayStart | None = None,
) -> list[Row]:
    """Hold one conversation of ``config.turns`` turns, and those that branch off from it.

    Args:
        engines: by role (user, inducer, guided, unguided, judge).
        rows: of turns of this tree that were finished before, in any order: it goes on from them
            and becomes the tree that it would have become in one go.
        keep: awaited with the rows of all finished turns after each of them, before its branch
            goes on; never twice at once.
        may_start: asked before each turn. Where it says no, that branch ends for now; turns that
            are open go on to their end.

    Returns:
        Rows of `aloe.schema.NODES` by branch, in each the user's node, the guided replies and the
        unguided ones.

    Raises:
        TreeFailed: one call had no usable answer in ``config.tries`` tries.
        StageStopped: the tree is not whole, as a turn might not start.
    """
    stopped = False
    turns = finished_turns(rows, nodes_per_turn(config))
    speakers = within(engines, start.tree_id)
    keeping = asyncio.Lock()

    async def finish(branch: int, history: list[Message], parent: str | None) -> None:
        try:
            turn = await hold_turn(
                start.persona, history, speakers, config, turn_seed(start, branch)
            )
        except CallFailed as error:
            raise TreeFailed(error_row(start, branch, error, in_order(turns))) from error
        turns[branch] = turn_rows(start, branch, turn, parent)
        if keep is not None:
            async with keeping:
                await keep(in_order(turns))

    async def grow(branch: int, history: list[Message], parent: str | None) -> None:
        nonlocal stopped
        if branch not in turns:
            if may_start is not None and not await may_start():
                stopped = True
                return
            await finish(branch, history, parent)
        replies = picks(turn_seed(start, branch), config.samples)
        for number in branches_after(branch, config):
            reply, said = answered_by(turns[branch], replies[number % 2])
            group.create_task(grow(number, [*history, *said], reply))

    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(grow(1, [], None))
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from failures
    if stopped:
        raise StageStopped(f"tree {start.tree_id}: stopped after {len(turns)} turns")
    return in_order(turns)
