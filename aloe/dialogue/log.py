"""What is finished of an open part, so that a kill loses what is in flight and no more.

    dialogue/open/<part>/<number>.parquet   finished turns of some of its trees (NODES)
    dialogue/open/<part>/<number>.ends      branches of them that have ended (ERRORS, Parquet)

On a disk a turn is written before its branch goes on. An object store is paid by the request: what
is finished within `WINDOW_S` goes into one file, and branches do not wait for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import Any, NamedTuple

from aloe.schema import ERRORS, NODES
from aloe.storage import Store

Row = dict[str, Any]
Write = Callable[[int, list[Row], list[Row]], Awaitable[None]]

STAGE = "dialogue"
WINDOW_S = 2.0
"""Seconds within which what is finished goes into one file of an object store."""


class Logged(NamedTuple):
    """The log of a part, by tree id."""

    turns: dict[str, list[Row]]
    """Rows of `aloe.schema.NODES`."""
    ends: dict[str, list[Row]]
    """Rows of `aloe.schema.ERRORS`."""
    files: int
    """Number of the next file."""


def read_log(store: Store, part: str) -> Logged:
    """What is logged of an open part; a row that was written twice stands once."""
    folder = f"{STAGE}/open/{part}"
    turns: dict[str, dict[str, Row]] = {}
    ends: dict[str, dict[int | None, Row]] = {}
    files = 0
    for row in store.read_table(folder, NODES).to_pylist():
        turns.setdefault(row["tree_id"], {})[row["node_id"]] = row
    for name in sorted(store.names(folder)):
        stem, _, kind = name.rpartition(".")
        if kind == "ends":
            for row in store.read_table(f"{folder}/{name}", ERRORS).to_pylist():
                ends.setdefault(row["item_id"], {})[row["branch"]] = row
        if stem.isdecimal():
            files = max(files, int(stem) + 1)
    return Logged(_lists(turns), _lists(ends), files)


def _lists(found: dict[str, dict[Any, Row]]) -> dict[str, list[Row]]:
    return {tree: list(rows.values()) for tree, rows in found.items()}


def write_log(
    store: Store, part: str, number: int, turns: Iterable[Row], ends: Iterable[Row]
) -> None:
    """Write one file, or two: rows of NODES, and of ERRORS."""
    folder = f"{STAGE}/open/{part}/{number:06d}"
    if turns := list(turns):
        store.write_table(f"{folder}.parquet", turns, NODES)
    if ends := list(ends):
        store.write_table(f"{folder}.ends", ends, ERRORS)


class TurnLog:
    """The writer of one part's log."""

    def __init__(self, write: Write, files: int, remote: bool) -> None:
        """Write nothing yet.

        Args:
            write: awaited with the number of a file, its turns and its ends; never twice at once.
            files: see `Logged`.
            remote: the log lies in an object store.
        """
        self._write, self._number = write, files
        self._window_s = WINDOW_S if remote else 0.0
        self._turns, self._ends = list[Row](), list[Row]()
        self._batch: asyncio.Future[None] | None = None
        self._hurry = asyncio.Event()
        self._writing: asyncio.Task[None] | None = None
        self._failure: BaseException | None = None
        self._closed = False

    async def keep(self, turns: Iterable[Row] = (), ends: Iterable[Row] = ()) -> None:
        """Have these rows written; on a disk, return when they are.

        Raises:
            WorldFault: they cannot be, or others before could not be.
        """
        if self._failure is not None:
            raise self._failure
        self._turns += turns
        self._ends += ends
        if self._batch is None:
            self._batch = asyncio.get_running_loop().create_future()
        batch = self._batch
        if self._writing is None:
            self._writing = asyncio.create_task(self._write_all())
        if not self._window_s:
            await asyncio.shield(batch)

    async def flush(self) -> None:
        """Return when everything is written.

        Raises:
            WorldFault: it cannot be.
        """
        self._hurry.set()
        if self._writing is not None:
            await self._writing
        if self._failure is not None:
            raise self._failure

    async def close(self) -> None:
        """Write nothing more, as the part is about to be final; return when no write is open."""
        self._closed = True
        self._hurry.set()
        if self._writing is not None:
            await self._writing

    async def _write_all(self) -> None:
        while self._batch is not None:
            with suppress(TimeoutError):  # the window is over
                async with asyncio.timeout(self._window_s):
                    await self._hurry.wait()
            if self._closed:
                break
            batch, self._batch = self._batch, None
            turns, self._turns = self._turns, []
            ends, self._ends = self._ends, []
            work = self._write(self._number, turns, ends)
            (self._failure,) = await asyncio.gather(work, return_exceptions=True)
            if self._failure is not None:  # told to whoever keeps or flushes next, too
                for lost in filter(None, (batch, self._batch)):
                    lost.set_exception(self._failure)
                    lost.exception()  # marks it as seen where nobody waits
                self._batch = None
                break
            self._number += 1
            batch.set_result(None)
        self._writing = None
