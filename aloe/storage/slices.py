"""Some of a large Parquet file, without reading the rest of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from aloe.errors import UserError
from aloe.schema import check_version
from aloe.storage.ranges import ParquetSource, with_parquet
from aloe.storage.store import Store

T = TypeVar("T")


def read_column(store: Store, name: str, schema: pa.Schema, column: str) -> pa.ChunkedArray:
    """One column of all rows.

    Raises:
        UserError: the file is missing, or it was written with another schema version.
    """
    return store.read_table(name, schema, [column]).column(0)


def read_slice(store: Store, name: str, schema: pa.Schema, rows: npt.NDArray[np.int64]) -> pa.Table:
    """Rows by number, in the order asked for; reads the row groups that hold them.

    Args:
        rows: row numbers, ascending.

    Raises:
        UserError: the file is missing, or it was written with another schema version.
    """
    return _read(store, name, schema, lambda file: _rows(file, rows), keep_footer=True)


def read_where(store: Store, name: str, schema: pa.Schema, column: str, value: str) -> pa.Table:
    """Rows with that value in a column; reads the row groups that may hold some.

    Raises:
        UserError: the file is missing, or it was written with another schema version.
    """

    def work(file: ParquetSource) -> pa.Table:
        found = file.read([group for group, range_ in _ranges(file, column) if _may(range_, value)])
        return found.filter(pc.field(column) == value)

    return _read(store, name, schema, work)


def rows_where_not(
    store: Store, name: str, schema: pa.Schema, column: str, value: str
) -> npt.NDArray[np.int64]:
    """Numbers of the rows, ascending, without that value in a column.

    Reads the footer, and the column of those row groups whose statistics leave it open.

    Raises:
        UserError: the file is missing, or it was written with another schema version.
    """

    def work(file: ParquetSource) -> npt.NDArray[np.int64]:
        sizes, ranges = file.group_sizes(), dict(_ranges(file, column))
        open_groups = [
            group
            for group, range_ in ranges.items()
            if _may(range_, value) and range_ != (value, value)
        ]
        read = file.read(open_groups, [column]).column(0)
        unequal = iter(pc.not_equal(read, value).to_pylist())
        wanted: list[npt.NDArray[np.bool_]] = []
        for group, size in enumerate(sizes):
            if group in open_groups:
                wanted.append(np.array([next(unequal) for _ in range(size)], np.bool_))
            else:
                wanted.append(np.full(size, ranges[group] != (value, value)))
        return np.flatnonzero(np.concatenate([np.empty(0, np.bool_), *wanted]))

    return _read(store, name, schema, work)


_Range = tuple[str, str] | None
"""Smallest and largest value of a row group's column, if they are known."""


def _ranges(file: ParquetSource, column: str) -> list[tuple[int, _Range]]:
    place = file.schema.names.index(column)  # no nested column stands before it
    found: list[tuple[int, _Range]] = []
    for group in range(file.metadata.num_row_groups):
        chunk = file.metadata.row_group(group).column(place)
        known = chunk.is_stats_set and chunk.statistics.has_min_max
        found.append((group, (chunk.statistics.min, chunk.statistics.max) if known else None))
    return found


def _may(known: _Range, value: str) -> bool:
    return known is None or known[0] <= value <= known[1]


def _rows(file: ParquetSource, rows: npt.NDArray[np.int64]) -> pa.Table:
    sizes = file.group_sizes()
    ends = np.cumsum(sizes)
    group_of = np.searchsorted(ends, rows, side="right")
    groups = np.unique(group_of)
    table = file.read(groups.tolist())
    # Where each row lies in what was read.
    before = np.cumsum([0, *(sizes[group] for group in groups)])
    starts = np.concatenate([[0], ends])[group_of]
    places = before[np.searchsorted(groups, group_of)] + rows - starts
    return table.take(pa.array(places, pa.int64()))


def _read(
    store: Store,
    name: str,
    schema: pa.Schema,
    work: Callable[[ParquetSource], T],
    keep_footer: bool = False,
) -> T:
    def checked(file: ParquetSource) -> T:
        check_version(file.schema, schema, store.url(name))
        return work(file)

    try:
        return with_parquet(store.url(name), checked, store.options, keep_footer)
    except FileNotFoundError:
        raise UserError(f"{store.url(name)}: missing; run the stage that writes it first") from None
