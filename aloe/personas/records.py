"""Persona files as people have them, row by row: JSONL, CSV, Parquet and Hugging Face folders."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from aloe.errors import UserError
from aloe.storage import localize
from aloe.storage.s3 import open_fs

Value = Any
_AT_ONCE = 1024
"""Rows of a Parquet or Arrow file in memory."""
_DELIMITERS = {".csv": ",", ".tsv": "\t"}


def read_values(path: str, columns: Sequence[str]) -> Iterator[tuple[str, Value]]:
    """The rows of a file or folder with the place of each, one after the other.

    Args:
        path: ``.jsonl`` (any other suffix too), ``.csv``, ``.tsv`` or ``.parquet``; or a folder as
            `datasets.save_to_disk` or `push_to_hub` leave it. fsspec URLs are fine.
        columns: what to read of each row.

    Returns:
        Places such as ``FILE:LINE``, and a mapping of column to value; of JSONL each line's bytes.

    Raises:
        UserError: nothing can be read there, or a column is not among those that are.
    """
    suffix = Path(path).suffix.lower()
    try:
        fs, inside = open_fs(path)
        if fs.isdir(inside):
            yield from _read_folder(path, columns)
            return
        with fs.open(inside, "rb") as file:
            if suffix == ".parquet":
                yield from _read_parquet(path, file, columns)
            elif suffix in _DELIMITERS:
                yield from _read_csv(path, file, columns, _DELIMITERS[suffix])
            else:
                for number, line in enumerate(file, start=1):
                    bom = b"\xef\xbb\xbf" if number == 1 else b""
                    yield f"{path}:{number}", line.removesuffix(b"\n").removeprefix(bom)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (pa.ArrowInvalid, csv.Error, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({' '.join(str(error).split())})") from error


def parse_object(line: dict[str, Any], columns: Sequence[str]) -> dict[str, Value]:
    """The columns of a JSON object.

    Raises:
        ValueError: one of them is not there.
    """
    for name in columns:
        if name not in line:
            raise ValueError(f"no column {name}, expected one of {', '.join(line)}")
    return {name: line[name] for name in columns}


def _read_folder(path: str, columns: Sequence[str]) -> Iterator[tuple[str, Value]]:
    folder = Path(localize(path))
    states = sorted(folder.rglob("state.json"))
    saved = [
        state.parent / file["filename"]
        for state in states
        for file in json.loads(state.read_text(encoding="utf-8"))["_data_files"]
    ]
    files = saved or sorted(folder.rglob("*.parquet"))
    if not files:
        raise UserError(f"{path}: no data set there (no state.json of datasets, no *.parquet)")
    for file in files:
        with file.open("rb") as opened:
            read = _read_parquet if file.suffix == ".parquet" else _read_arrow
            yield from read(str(file), opened, columns)


def _read_parquet(
    path: str, file: IO[bytes], columns: Sequence[str]
) -> Iterator[tuple[str, Value]]:
    parquet = pq.ParquetFile(file)
    _check(path, columns, parquet.schema_arrow.names)
    batches = parquet.iter_batches(_AT_ONCE, columns=list(columns))
    yield from _rows(path, batches)


def _read_arrow(path: str, file: IO[bytes], columns: Sequence[str]) -> Iterator[tuple[str, Value]]:
    with pa.ipc.open_stream(file) as stream:
        _check(path, columns, stream.schema.names)
        yield from _rows(path, (batch.select(list(columns)) for batch in stream))


def _rows(path: str, batches: Iterator[pa.RecordBatch]) -> Iterator[tuple[str, Value]]:
    number = 0
    for batch in batches:
        for row in batch.to_pylist():
            number += 1
            yield f"{path}:row {number}", row


def _read_csv(
    path: str, file: IO[bytes], columns: Sequence[str], delimiter: str
) -> Iterator[tuple[str, Value]]:
    lines = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
    rows = csv.DictReader(lines, delimiter=delimiter, strict=True)
    _check(path, columns, rows.fieldnames or ())
    for row in rows:
        yield f"{path}:{rows.line_num}", {name: row[name] for name in columns}


def _check(path: str, columns: Sequence[str], there: Sequence[str]) -> None:
    if not columns:
        raise UserError(f"{path}: expected --columns, some of {', '.join(there)}")
    for name in columns:
        if name not in there:
            raise UserError(f"{path}: no column {name}, expected one of {', '.join(there)}")
