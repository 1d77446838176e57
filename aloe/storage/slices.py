"""Some of a large Parquet file, without reading the rest of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from aloe.errors import UserError
from aloe.schema import check_version
from aloe.storage.files import remotely
from aloe.storage.store import Store

T = TypeVar("T")


def read_column(store: Store, name: str, schema: pa.Schema, column: str) -> pa.ChunkedArray:
    """One column of all rows.

    Raises:
        UserError: the file is missing, or it was written with another schema version.
    """
    return _read(store, name, schema, lambda file: file.read([column]).column(0))


def read_slice(store: Store, name: str, schema: pa.Schema, rows: npt.NDArray[np.int64]) -> pa.Table:
    """Rows by number, in the order asked for; reads the row groups that hold them.

    Args:
        rows: row numbers, ascending.

    Raises:
        UserError: the file is missing, or it was written with another schema version.
    """
    return _read(store, name, schema, lambda file: _rows(file, rows))


def _rows(file: pq.ParquetFile, rows: npt.NDArray[np.int64]) -> pa.Table:
    sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
    ends = np.cumsum(sizes)
    group_of = np.searchsorted(ends, rows, side="right")
    groups = np.unique(group_of)
    table = file.read_row_groups(groups.tolist())
    # Where each row lies in what was read.
    before = np.concatenate([[0], np.cumsum([sizes[group] for group in groups])])
    starts = np.concatenate([[0], ends])[group_of]
    return table.take(pa.array(before[np.searchsorted(groups, group_of)] + rows - starts))


def _read(store: Store, name: str, schema: pa.Schema, work: Callable[[pq.ParquetFile], T]) -> T:
    def read() -> T:
        with store.fs.open(store.path(name), "rb") as opened, pq.ParquetFile(opened) as file:
            check_version(file.schema_arrow, schema, store.url(name))
            return work(file)

    try:
        return remotely(store.url(name), "read", read, store.options)
    except FileNotFoundError:
        raise UserError(f"{store.url(name)}: missing; run the stage that writes it first") from None
