"""One dialogue tree: turns that branch, each branch a task of its own (paper section 3)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import NamedTuple

from aloe.config import DialogueConfig
from aloe.dialogue.branches import branches_after, nodes_per_turn, picks
from aloe.dialogue.rows import (
    Row,
    TreeSeed,
    answered_by,
    end_row,
    finished_turns,
    in_order,
    selected_in,
    selected_rows,
    turn_rows,
    turn_seed,
)
from aloe.dialogue.turn import hold_selected_turn, hold_turn
from aloe.engines import Engine, Message
from aloe.errors import CallFailed, StageStopped, WorldFault
from aloe.roles import within

Keep = Callable[[list[Row]], Awaitable[None]]
MayStart = Callable[[], Awaitable[bool]]

__all__ = ["Keep", "MayStart", "Tree", "TreeSeed", "grow_tree"]


class Tree(NamedTuple):
    """What has grown, and where it could not."""

    rows: list[Row]
    """Of `aloe.schema.NODES` by branch, in each the user's node, the guided replies and the
    unguided ones. None: the very first turn failed."""
    ends: list[Row]
    """Of `aloe.schema.ERRORS`: branches that a failed call has ended, by branch."""


async def grow_tree(
    start: TreeSeed,
    engines: Mapping[str, Engine],
    config: DialogueConfig,
    rows: Iterable[Row] = (),
    keep: Keep | None = None,
    ends: Iterable[Row] = (),
    keep_ends: Keep | None = None,
    may_start: MayStart | None = None,
) -> Tree:
    """Hold one conversation of ``config.turns`` turns, and those that branch off from it.

    Args:
        engines: by role (user, inducer, guided, unguided, judge).
        rows: of turns of this tree that were finished before, in any order: it goes on from them
            and becomes the tree that it would have become in one go.
        keep: awaited with the rows of all finished turns after each of them, before its branch
            goes on; never twice at once.
        ends: of branches that have ended before: they are not tried again.
        keep_ends: as ``keep``, with the rows of all ends after each of them.
        may_start: asked before each turn. Where it says no, that branch ends for now; turns that
            are open go on to their end.

    Raises:
        StageStopped: the tree is not whole, as a turn might not start.
        WorldFault: the tree is not whole, as nobody can be asked now; turns that were open have
            gone on to their end.
    """
    turns = finished_turns(rows, nodes_per_turn(config))
    ended = {row["branch"]: row for row in ends}
    unfinished: list[WorldFault | StageStopped] = []
    speakers = within(engines, start.tree_id)
    keeping = asyncio.Lock()

    async def finish(branch: int, history: list[Message], parent: str | None) -> bool:
        try:
            seed = turn_seed(start, branch)
            place = (start.persona, history, speakers, config, seed, start.prompts)
            if config.select is None:
                found = turn_rows(start, branch, await hold_turn(*place), parent)
            else:
                found = selected_rows(start, branch, await hold_selected_turn(*place), parent)
        except CallFailed as error:
            ended[branch] = end_row(start, branch, error)
            if keep_ends is not None:
                async with keeping:
                    await keep_ends(_by_branch(ended))
            return False
        turns[branch] = found
        if keep is not None:
            async with keeping:
                await keep(in_order(turns))
        return True

    async def held(branch: int, history: list[Message], parent: str | None) -> bool:
        """Whether the turn is there, now or before."""
        if branch in turns or branch in ended:
            return branch in turns
        if unfinished or (may_start is not None and not await may_start()):
            unfinished.append(StageStopped(f"tree {start.tree_id}: {len(turns)} turns so far"))
            return False
        try:
            return await finish(branch, history, parent)
        except WorldFault as fault:  # raised here, it would end the turns of other branches
            unfinished.insert(0, fault)
            return False

    async def grow(branch: int, history: list[Message], parent: str | None) -> None:
        if not await held(branch, history, parent):
            return
        if config.select is None:
            replies = picks(turn_seed(start, branch), config.samples)
        else:
            replies = (selected_in(turns[branch]),) * 2
        for number in branches_after(branch, config):
            reply, said = answered_by(turns[branch], replies[number % 2])
            group.create_task(grow(number, [*history, *said], reply))

    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(grow(1, list(start.history), None))
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from failures
    if unfinished:
        raise unfinished[0]
    return Tree(in_order(turns), _by_branch(ended))


def _by_branch(ended: Mapping[int, Row]) -> list[Row]:
    """Rows of ends by branch."""
    return [ended[branch] for branch in sorted(ended, key=lambda branch: branch or 0)]
