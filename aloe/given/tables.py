"""Rows of tables: Parquet, Arrow, CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

from aloe.given.columns import Place, Record, WantedColumns
from aloe.storage.ranges import ParquetSource

_AT_ONCE = 1024
"""Rows of a Parquet or Arrow file in memory."""

csv.field_size_limit(64 << 20)  # of a cell; Python's own limit is 131072 characters

Found = Iterator[tuple[Place, Record]]


def read_parquet(url: str, columns: WantedColumns) -> Found:
    """The rows of a Parquet file, of which only the wanted columns are fetched."""
    source = ParquetSource(url)
    wanted = columns.of_table(url, source.schema.names)
    yield from _rows(url, source.batches(_AT_ONCE, wanted), wanted)


def read_packed_parquet(path: str, file: IO[bytes], columns: WantedColumns) -> Found:
    """The same of an open file, as one that is compressed as a whole."""
    parquet = pq.ParquetFile(file)
    wanted = columns.of_table(path, parquet.schema_arrow.names)
    yield from _rows(path, parquet.iter_batches(_AT_ONCE, columns=wanted), wanted)


def read_arrow(path: str, file: IO[bytes], columns: WantedColumns) -> Found:
    """The rows of an Arrow stream, as `datasets` saves it."""
    with pa.ipc.open_stream(file) as stream:
        wanted = columns.of_table(path, stream.schema.names)
        yield from _rows(path, stream, wanted)


def _rows(path: str, batches: Iterable[pa.RecordBatch], wanted: list[str]) -> Found:
    number = 0
    for batch in batches:
        for row in batch.select(wanted).to_pylist():
            number += 1
            yield f"{path}:row {number}", row


def read_csv(path: str, file: IO[bytes], columns: WantedColumns, delimiter: str) -> Found:
    """The rows of a table of text whose first line names the columns."""
    lines = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
    rows = csv.reader(lines, delimiter=delimiter, strict=True)
    head = next(rows, [])
    wanted = {name: head.index(name) for name in columns.of_table(path, head)}
    for row in rows:
        if not row:  # an empty line
            continue
        place = f"{path}:{rows.line_num}"
        if len(row) == len(head):
            yield place, {name: row[index] for name, index in wanted.items()}
        else:
            yield place, ValueError(f"{len(row)} cells, expected {len(head)} as in the first line")
