"""Large files of a run, written and read piece by piece: none of them has to fit into memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from aloe.errors import UserError
from aloe.schema import check_version
from aloe.storage.files import on_disk, remotely, unfinished_beside, upload
from aloe.storage.ranges import parquet_named
from aloe.storage.store import STATISTICS, Store

Row = dict[str, Any]

_ROWS_AT_ONCE = 1024
"""Rows in memory, and in one row group of a file."""


@contextmanager
def new_file(store: Store, name: str) -> Iterator[Path]:
    """A local path to write to, whose file becomes ``name`` when the block ends.

    If the block raises, nothing is written. Readers see the old file or the new one, never a part.

    Raises:
        UserError: the object store refuses.
        WorldFault: it does not answer, or the disk is full.
    """
    made = _beside if isinstance(store.fs, LocalFileSystem) else _copied
    with on_disk(store.url(name), "written"), made(store, name) as path:
        yield path


@contextmanager
def _beside(store: Store, name: str) -> Iterator[Path]:
    target = Path(store.path(name))
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = unfinished_beside(target)
    try:
        yield unfinished
        with unfinished.open("rb") as file:
            os.fsync(file.fileno())
        unfinished.replace(target)
    finally:
        with suppress(OSError):  # a disk that is gone, or read-only, has said so above
            unfinished.unlink(missing_ok=True)


@contextmanager
def _copied(store: Store, name: str) -> Iterator[Path]:
    with TemporaryDirectory() as folder:
        path = Path(folder, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        yield path
        upload(Path(folder), store.root.rstrip("/"), store.options)


@contextmanager
def new_table(
    store: Store, name: str, schema: pa.Schema, row_group: int = _ROWS_AT_ONCE
) -> Iterator[Callable[[Iterable[Row]], None]]:
    """A function that adds rows to a Parquet file, which is there when the block ends.

    Equal rows make equal files, however they are divided over the calls. See `new_file`.

    Args:
        row_group: rows that are read together, see `aloe.storage.slices`.
    """
    waiting: list[Row] = []

    with (
        new_file(store, name) as path,
        pq.ParquetWriter(
            path,
            schema,
            compression="zstd",
            write_statistics=[column for column in schema.names if column in STATISTICS],
        ) as writer,
    ):

        def write_group() -> None:
            writer.write_table(pa.Table.from_pylist(waiting, schema=schema))
            waiting.clear()

        def add(rows: Iterable[Row]) -> None:
            for row in rows:
                waiting.append(row)
                if len(waiting) == row_group:
                    write_group()

        yield add
        if waiting:
            write_group()


def read_rows(store: Store, name: str, schema: pa.Schema) -> Iterator[Row]:
    """The rows of one Parquet file, in order.

    Raises:
        UserError: it is missing, or it was written with another schema version.
    """
    url = store.url(name)
    try:
        with (
            _local_copy(store, name) as path,
            on_disk(url, "read"),
            parquet_named(url),
            pq.ParquetFile(path) as file,
        ):
            check_version(file.schema_arrow, schema, url)
            for batch in file.iter_batches(_ROWS_AT_ONCE):
                yield from batch.to_pylist()
    except FileNotFoundError:
        raise UserError(f"{url}: missing; run the stage that writes it first") from None


@contextmanager
def _local_copy(store: Store, name: str) -> Iterator[str]:
    fs, path = store.fs, store.path(name)
    if isinstance(fs, LocalFileSystem):
        yield path
        return
    with TemporaryDirectory() as folder:
        copy = str(Path(folder, "copy.parquet"))
        remotely(store.url(name), "read", partial(fs.get_file, path, copy), store.options)
        yield copy


def read_parts(
    store: Store, folder: str, schema: pa.Schema, columns: list[str] | None = None
) -> Iterator[list[Row]]:
    """The rows of each Parquet file of a folder, in order of their names.

    Raises:
        UserError: one of them was written with another schema version.
    """
    for name in sorted(store.finished(folder)):
        yield store.read_table(f"{folder}/{name}.parquet", schema, columns).to_pylist()
