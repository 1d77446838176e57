"""Files as people have them, row by row: JSON, JSONL, CSV, TSV, Parquet, Hugging Face folders."""

from __future__ import annotations

import csv
import io
import json
import lzma
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import IO, NoReturn, TypeVar

import aiohttp
import pyarrow as pa
from botocore.exceptions import BotoCoreError, ClientError
from fsspec.utils import infer_compression

from aloe.errors import UserError, WorldFault
from aloe.given.columns import Place, Record, Row, WantedColumns
from aloe.given.folders import COMPRESSED, files_of, unpacked
from aloe.given.tables import read_arrow, read_csv, read_packed_parquet, read_parquet
from aloe.storage.faults import fault_of
from aloe.storage.s3 import open_fs

__all__ = ["Place", "Record", "Row", "converted", "read_lines", "read_records"]

T = TypeVar("T")
S = TypeVar("S")

_CHUNK = 1 << 20
"""Characters of a JSON array that are read together."""
_LONGEST = 64 << 20
"""Characters of a JSON array's element beyond which it is taken for broken."""
_BEGIN = 1 << 10
_NAMED_ROWS = 5
_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_BOM = b"\xef\xbb\xbf"
_SPACE = " \t\r\n"
_REMOTE = (OSError, BotoCoreError, ClientError, aiohttp.ClientError)
_BROKEN = (
    EOFError,
    zlib.error,
    lzma.LZMAError,
    zipfile.BadZipFile,
    NotImplementedError,  # a way of packing that is not known
    pa.ArrowException,
    csv.Error,
    UnicodeDecodeError,
)


def read_records(
    path: str, required: Sequence[str], optional: Sequence[str] = ()
) -> Iterator[tuple[Place, Record]]:
    """The rows of a file or folder with the place of each, one after the other.

    Args:
        path: ``.csv``, ``.tsv``, ``.parquet``, ``.json`` (an array of objects, or lines) or, with
            any other suffix, lines of JSON objects; all may be compressed (``.gz``, ``.bz2``,
            ``.xz``, ``.zip``). Or a folder as `datasets.save_to_disk` or a download from the hub
            leave it. fsspec URLs are fine; of Parquet only the columns are fetched.
        required: columns that every row must have.
        optional: columns that are read where they are there.

    Raises:
        UserError: nothing can be read there, or a table lacks a column.
        WorldFault: the object store does not answer or refuses.
    """
    columns = WantedColumns(path, required, optional)
    with _named(path):
        fs, inside = open_fs(path)
        files = files_of(path) if fs.isdir(inside) else [path]
    for file in files:
        with _named(file):
            yield from _read_file(file, columns)


def read_lines(path: str) -> Iterator[tuple[Place, bytes]]:
    """The lines of a file with the place of each, without their ends and a byte order mark.

    Raises:
        UserError, WorldFault: see `read_records`.
    """
    with _named(path), _opened(path) as file:
        yield from _lines(path, file)


@contextmanager
def _named(path: str) -> Iterator[None]:
    """Say by one line that a file cannot be read."""
    try:
        yield
    except _REMOTE as error:
        fault = fault_of(path, "read", error)
        if isinstance(fault, WorldFault):
            raise fault from error
        reason = getattr(error, "strerror", None) or _words(error)
        raise UserError(f"{path}: cannot be read ({reason})") from error
    except _BROKEN as error:
        raise UserError(f"{path}: cannot be read ({_words(error)})") from error


@contextmanager
def _opened(path: str) -> Iterator[IO[bytes]]:
    packed = path.lower().endswith(COMPRESSED)
    if packed and infer_compression(path) is None:
        raise UserError(f"{path}: cannot be unpacked here, expected .gz, .bz2, .xz or .zip")
    fs, inside = open_fs(path)
    try:
        opened = fs.open(inside, "rb", compression="infer")
    except (ValueError, IndexError, RuntimeError) as error:  # a zip: empty, or with a password
        raise UserError(f"{path}: cannot be unpacked ({_words(error)})") from error
    with opened as file:
        yield file


def _words(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


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


def _read_file(path: str, columns: WantedColumns) -> Iterator[tuple[Place, Record]]:
    kind = unpacked(path).suffix
    if kind == ".parquet" and not path.lower().endswith(COMPRESSED):
        yield from read_parquet(path, columns)
        return
    with _opened(path) as file:
        if kind == ".parquet":
            yield from read_packed_parquet(path, file, columns)
        elif kind == ".arrow":
            yield from read_arrow(path, file, columns)
        elif kind in _DELIMITERS:
            yield from read_csv(path, file, columns, _DELIMITERS[kind])
        elif kind == ".json" and _begins_array(file):
            yield from _read_array(path, file, columns)
        else:
            for place, line in _lines(path, file):
                if line.strip():
                    yield place, _parsed(line, columns)


def _parsed(line: bytes, columns: WantedColumns) -> Record:
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
    begin = file.read(_BEGIN).removeprefix(_BOM).lstrip()
    file.seek(0)
    return begin.startswith(b"[")


def _read_array(
    path: str, file: IO[bytes], columns: WantedColumns
) -> Iterator[tuple[Place, Record]]:
    """The elements of one JSON array, of which only one has to fit into memory."""
    text = _JsonText(path, io.TextIOWrapper(file, encoding="utf-8-sig"))
    text.take("[")
    more = text.peek() != "]"
    while more:
        value = text.value()
        yield f"{path}:element {text.elements}", columns.of_object(value)
        more = text.peek() == ","
        if more:
            text.take(",")
    text.take("]")
    if text.peek():
        raise UserError(f"{path}: text behind the end of the array, expected none")


class _JsonText:
    """The text of a JSON array, of which only a chunk or an element is in memory."""

    def __init__(self, path: str, file: io.TextIOWrapper) -> None:
        self._path, self._file = path, file
        self._waiting, self._at, self._ended = "", 0, False
        self._decode = json.JSONDecoder().raw_decode
        self.elements = 0
        """How many were begun."""

    def peek(self) -> str:
        """The next character that is no space; empty at the end."""
        while True:
            while self._at < len(self._waiting):
                if self._waiting[self._at] not in _SPACE:
                    return self._waiting[self._at]
                self._at += 1
            if self._ended:
                return ""
            self._read_on()

    def take(self, wanted: str) -> None:
        """Pass over a character that must be there."""
        if self.peek() != wanted:
            self._refuse(f"expected {wanted!r} behind it")
        self._at += 1

    def value(self) -> object:
        """The next element."""
        self.elements += 1
        self.peek()
        while True:
            try:
                found, end = self._decode(self._waiting, self._at)
            except RecursionError:
                self._refuse("nested too deeply")
            except json.JSONDecodeError as error:
                if self._ended or len(self._waiting) - self._at > _LONGEST:
                    self._refuse(error.msg)
            else:
                if end < len(self._waiting) or self._ended:  # else a number might go on
                    self._at = end
                    return found
            self._read_on()

    def _read_on(self) -> None:
        chunk = self._file.read(_CHUNK)
        self._ended = not chunk
        self._waiting, self._at = self._waiting[self._at :] + chunk, 0

    def _refuse(self, problem: str) -> NoReturn:
        raise UserError(
            f"{self._path}: element {self.elements} of the array: broken JSON ({problem})"
        )
