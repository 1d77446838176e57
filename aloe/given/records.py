"""Files as people have them, row by row: JSON, JSONL, CSV, TSV, Parquet, Hugging Face folders."""

from __future__ import annotations

import csv
import io
import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import IO, Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from aloe.errors import UserError
from aloe.storage import localize
from aloe.storage.s3 import open_fs

T = TypeVar("T")
S = TypeVar("S")
Row = dict[str, Any]
Place = str
"""Where a row stands, such as ``FILE:LINE``."""
Record = Row | ValueError
"""A row, or what is wrong with it."""

_AT_ONCE = 1024
"""Rows of a Parquet or Arrow file in memory."""
_CHUNK = 1 << 20
"""Characters of a JSON array that are read together."""
_LONGEST = 64 << 20
"""Characters of a JSON array's element beyond which it is taken for broken."""
_NAMED_ROWS = 5
_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_IN_FOLDERS = ("*.parquet", "*.jsonl", "*.jsonl.gz", "*.csv", "*.tsv")
"""What a folder's rows are looked for in; the first kind that is there."""
_BOM = b"\xef\xbb\xbf"
_BEGIN = re.compile(r"\s*\[\s*")
_BETWEEN = re.compile(r"\s*,?\s*")


def read_records(
    path: str, required: Sequence[str], optional: Sequence[str] = ()
) -> Iterator[tuple[Place, Record]]:
    """The rows of a file or folder with the place of each, one after the other.

    Args:
        path: ``.csv``, ``.tsv``, ``.parquet``, ``.json`` (an array of objects, or lines) or, with
            any other suffix, lines of JSON objects; all may be gzipped (``.gz``). Or a folder as
            `datasets.save_to_disk` or a download from the hub leave it. fsspec URLs are fine.
        required: columns that every row must have.
        optional: columns that are read where they are there.

    Raises:
        UserError: nothing can be read there, or a table lacks a column.
    """
    columns = _Columns(path, required, optional)
    try:
        fs, inside = open_fs(path)
        if fs.isdir(inside):
            yield from _read_folder(path, columns)
            return
        with fs.open(inside, "rb", compression="infer") as file:
            yield from _read_file(path, file, columns)
    except (OSError, EOFError, zlib.error) as error:
        raise _unreadable(path, error) from error
    except (pa.ArrowInvalid, csv.Error, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({' '.join(str(error).split())})") from error


def read_lines(path: str) -> Iterator[tuple[Place, bytes]]:
    """The lines of a file with the place of each, without their ends and a byte order mark.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        fs, inside = open_fs(path)
        with fs.open(inside, "rb", compression="infer") as file:
            yield from _lines(path, file)
    except (OSError, EOFError, zlib.error) as error:
        raise _unreadable(path, error) from error


def converted(
    records: Iterable[tuple[Place, T | ValueError]], into: Callable[[T], S | None]
) -> Iterator[S]:
    """What ``into`` makes of each row, one after the other; None is passed over.

    Raises:
        UserError: at the end, if some rows are not of the form (they or ``into`` have said so by a
            ValueError); the first of them are named by their place.
    """
    problems: list[str] = []
    more = 0
    for place, record in records:
        try:
            if isinstance(record, ValueError):
                raise record
            found = into(record)
        except ValueError as error:
            more += len(problems) >= _NAMED_ROWS
            problems = [*problems, f"{place}: {error}"][:_NAMED_ROWS]
            continue
        if found is not None:
            yield found
    if problems:
        raise UserError("; ".join(problems) + (f"; and {more} more bad rows" if more else ""))


class _Columns:
    """Which columns are wanted, of files that may not have all of them."""

    def __init__(self, path: str, required: Sequence[str], optional: Sequence[str]) -> None:
        self._path, self.required = path, tuple(dict.fromkeys(required))
        self.optional = tuple(name for name in dict.fromkeys(optional) if name not in required)

    def of_table(self, path: str, there: Sequence[str]) -> list[str]:
        """Those that a table has.

        Raises:
            UserError: it lacks one that is required.
        """
        for name in self.required:
            if name not in there:
                raise UserError(f"{path}: no column {name}, expected one of {', '.join(there)}")
        found = [*self.required, *(name for name in self.optional if name in there)]
        if not found:
            wanted = f"one of {', '.join(self.optional)}" if self.optional else "--columns"
            raise UserError(f"{path}: expected {wanted}; there are {', '.join(there)}")
        return found

    def of_object(self, value: object) -> Record:
        if not isinstance(value, dict):
            return ValueError("expected a JSON object with these columns")
        for name in self.required:
            if name not in value:
                return ValueError(f"no column {name}, expected one of {', '.join(value)}")
        return {key: value[key] for key in (*self.required, *self.optional) if key in value}


def _unreadable(path: str, error: Exception) -> UserError:
    return UserError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})")


def _read_file(path: str, file: IO[bytes], columns: _Columns) -> Iterator[tuple[Place, Record]]:
    name = PurePosixPath(path.lower().removesuffix(".gz"))
    if name.suffix == ".parquet":
        yield from _read_parquet(path, file, columns)
    elif name.suffix in _DELIMITERS:
        yield from _read_csv(path, file, columns, _DELIMITERS[name.suffix])
    elif name.suffix == ".json" and _begins_array(file):
        yield from _read_array(path, file, columns)
    else:
        for place, line in _lines(path, file):
            if line.strip():
                yield place, _parsed(line, columns)


def _parsed(line: bytes, columns: _Columns) -> Record:
    try:
        return columns.of_object(json.loads(line))
    except RecursionError:
        return ValueError("JSON that is nested too deeply")
    except ValueError as error:
        return error


def _lines(path: str, file: IO[bytes]) -> Iterator[tuple[Place, bytes]]:
    # Not splitlines(): JSON strings may hold U+2028 and its like.
    for number, line in enumerate(file, start=1):
        bom = _BOM if number == 1 else b""
        yield f"{path}:{number}", line.removesuffix(b"\n").removeprefix(bom)


def _begins_array(file: IO[bytes]) -> bool:
    begin = file.read(_AT_ONCE).removeprefix(_BOM).lstrip()
    file.seek(0)
    return begin.startswith(b"[")


def _read_array(path: str, file: IO[bytes], columns: _Columns) -> Iterator[tuple[Place, Record]]:
    """The elements of one JSON array, of which only one has to fit into memory."""
    text = io.TextIOWrapper(file, encoding="utf-8-sig")
    decode = json.JSONDecoder().raw_decode
    waiting, number, begun = "", 0, False
    while True:
        chunk = text.read(_CHUNK)
        waiting, at = waiting + chunk, 0
        while True:
            match = (_BETWEEN if begun else _BEGIN).match(waiting, at)
            begun = begun or match is not None
            at = match.end() if match else at
            if waiting.startswith("]", at):
                return
            try:
                value, at = decode(waiting, at)
            except RecursionError:
                raise UserError(f"{path}: JSON that is nested too deeply") from None
            except json.JSONDecodeError as error:
                if not chunk or len(waiting) - at > _LONGEST:
                    raise UserError(
                        f"{path}: element {number + 1} of the array: broken JSON ({error.msg})"
                    ) from error
                waiting = waiting[at:]
                break
            number += 1
            yield f"{path}:element {number}", columns.of_object(value)


def _read_folder(path: str, columns: _Columns) -> Iterator[tuple[Place, Record]]:
    folder = Path(localize(path))
    saved = [
        state.parent / file["filename"]
        for state in sorted(folder.rglob("state.json"))
        for file in json.loads(state.read_text(encoding="utf-8"))["_data_files"]
    ]
    kinds = (sorted(folder.rglob(pattern)) for pattern in _IN_FOLDERS)
    files = saved or next((found for found in kinds if found), [])
    if not files:
        raise UserError(
            f"{path}: no data set there (no state.json of datasets, no {', '.join(_IN_FOLDERS)})"
        )
    for file in files:
        if file.suffix == ".arrow":
            with file.open("rb") as opened:
                yield from _read_arrow(str(file), opened, columns)
        else:
            yield from read_records(str(file), columns.required, columns.optional)


def _read_parquet(path: str, file: IO[bytes], columns: _Columns) -> Iterator[tuple[Place, Record]]:
    parquet = pq.ParquetFile(file, pre_buffer=False)  # else it holds all row groups at once
    wanted = columns.of_table(path, parquet.schema_arrow.names)
    yield from _rows(path, parquet.iter_batches(_AT_ONCE, columns=wanted))


def _read_arrow(path: str, file: IO[bytes], columns: _Columns) -> Iterator[tuple[Place, Record]]:
    with pa.ipc.open_stream(file) as stream:
        wanted = columns.of_table(path, stream.schema.names)
        yield from _rows(path, (batch.select(wanted) for batch in stream))


def _rows(path: str, batches: Iterator[pa.RecordBatch]) -> Iterator[tuple[Place, Record]]:
    number = 0
    for batch in batches:
        for row in batch.to_pylist():
            number += 1
            yield f"{path}:row {number}", row


def _read_csv(
    path: str, file: IO[bytes], columns: _Columns, delimiter: str
) -> Iterator[tuple[Place, Record]]:
    lines = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
    rows = csv.DictReader(lines, delimiter=delimiter, strict=True)
    wanted = columns.of_table(path, rows.fieldnames or ())
    for row in rows:
        yield f"{path}:{rows.line_num}", {name: row[name] for name in wanted}
