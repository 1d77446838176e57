"""Parquet files of which only the column chunks asked for are read, each byte once.

On S3 a file costs one request for its end, which holds the footer and all of a small file, and one
per stretch of neighbouring chunks. All of them are of one version of the object: if it is replaced
in between, reading begins anew.
"""

from __future__ import annotations

import asyncio
import io
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from botocore.exceptions import ClientError
from fsspec.asyn import sync

from aloe.config import StorageConfig
from aloe.errors import UserError
from aloe.storage.files import on_disk, remotely
from aloe.storage.s3 import is_s3, open_fs, storage_in_use

T = TypeVar("T")

_TAIL = 32 << 10
"""Bytes of an object's end that are asked for at first."""
_HOLE = 8 << 10
"""Unasked bytes between two chunks that are read along rather than cost another request."""
_STRETCH = 32 << 20
"""Most bytes of one request; what breaks off is repeated from its start."""
_MEMORY = 128 << 20
"""Compressed bytes in memory at once."""
_OTHER_VERSION = ("PreconditionFailed", "412")

Span = tuple[int, int]
"""First byte, and the one after the last."""

_kept: dict[str, ParquetSource] = {}


class _Replaced(Exception):
    """Another version of the object is there now."""


def with_parquet(
    url: str,
    work: Callable[[ParquetSource], T],
    options: StorageConfig | None = None,
    keep_footer: bool = False,
) -> T:
    """Do something with a Parquet file that may be done twice: again if it is replaced meanwhile.

    Args:
        keep_footer: of an object, for the next call; one file's at a time.

    Raises:
        FileNotFoundError: nothing is there.
        UserError: the object store does not answer or refuses, or the file is no Parquet; the URL
            is named.
    """
    for _ in range((options or storage_in_use()).attempts):
        with parquet_named(url):
            source = _kept.get(url) or ParquetSource(url, options)
        if keep_footer and is_s3(url):
            _kept.clear()
            _kept[url] = source
        try:
            with parquet_named(url):
                return work(source)
        except _Replaced:
            _kept.pop(url, None)
        finally:
            source.forget_tail()
    raise UserError(f"{url}: cannot be read (it is replaced again and again)")


@contextmanager
def parquet_named(url: str) -> Iterator[None]:
    """Name a file that is no Parquet, or that is broken.

    Raises:
        UserError: it is.
    """
    try:
        yield
    except (pa.ArrowException, EOFError, OSError) as error:
        missing = isinstance(error, FileNotFoundError)
        if missing or (isinstance(error, OSError) and error.errno is not None):
            raise  # the disk's or the store's, not the file's
        raise UserError(f"{url}: not a Parquet file ({' '.join(str(error).split())})") from error


class ParquetSource:
    """One Parquet file by URL; what is read is decoded and then forgotten, but for the footer."""

    def __init__(self, url: str, options: StorageConfig | None = None) -> None:
        """Read the footer.

        Raises:
            FileNotFoundError: nothing is there.
            UserError: the object store does not answer or refuses; the URL is named.
        """
        self._url, self._options = url, options
        self._tail: dict[int, bytes] = {}
        if is_s3(url):
            self.metadata = self._read_footer()
        else:
            fs, path = open_fs(url, options)
            with on_disk(url, "read"), fs.open(path) as file:
                self.metadata = pq.read_metadata(file)
        self.schema: pa.Schema = self.metadata.schema.to_arrow_schema()
        """With the metadata that the file was written with."""

    def group_sizes(self) -> list[int]:
        """Rows of each row group."""
        return [self.metadata.row_group(i).num_rows for i in range(self.metadata.num_row_groups)]

    def forget_tail(self) -> None:
        """Keep the footer alone."""
        self._tail = {}

    def read(self, groups: Sequence[int], columns: Sequence[str] | None = None) -> pa.Table:
        """Some columns of some row groups; None is all columns.

        Raises:
            UserError: the object store does not answer or refuses; the URL is named.
        """
        if not is_s3(self._url):
            fs, path = open_fs(self._url, self._options)
            with (
                on_disk(self._url, "read"),
                fs.open(path) as opened,
                pq.ParquetFile(opened, metadata=self.metadata) as file,
            ):
                return file.read_row_groups(list(groups), columns and list(columns))
        spans = {group: self._spans(group, columns) for group in groups}
        tables = [self._decode([], columns, {})]
        for batch in _batches(groups, spans):
            blocks = self._fetch([span for group in batch for span in spans[group]])
            tables.append(self._decode(batch, columns, blocks))
        return pa.concat_tables(tables)

    def batches(self, rows: int, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Some columns of all rows, at most so many rows at once; on S3 a row group is fetched.

        Raises:
            UserError: the object store does not answer or refuses; the URL is named.
        """
        wanted = list(columns)
        if not is_s3(self._url):
            fs, path = open_fs(self._url, self._options)
            with (
                on_disk(self._url, "read"),
                fs.open(path) as opened,
                # Not buffered ahead: else it holds all row groups at once.
                pq.ParquetFile(opened, metadata=self.metadata, pre_buffer=False) as file,
            ):
                yield from file.iter_batches(rows, columns=wanted)
            return
        for group in range(self.metadata.num_row_groups):
            try:
                blocks = self._fetch(self._spans(group, columns))
            except _Replaced:
                raise UserError(f"{self._url}: was replaced while it was read") from None
            opened = pa.PythonFile(_Blocks(blocks, self._size), mode="r")
            with pq.ParquetFile(opened, metadata=self.metadata, pre_buffer=False) as file:
                yield from file.iter_batches(rows, row_groups=[group], columns=wanted)

    def _decode(
        self, groups: list[int], columns: Sequence[str] | None, blocks: dict[int, bytes]
    ) -> pa.Table:
        opened = pa.PythonFile(_Blocks(blocks, self._size), mode="r")
        with pq.ParquetFile(opened, metadata=self.metadata) as file:
            return file.read_row_groups(groups, columns and list(columns))

    def _spans(self, group: int, columns: Sequence[str] | None) -> list[Span]:
        chunks = self.metadata.row_group(group)
        spans = []
        for chunk in map(chunks.column, range(chunks.num_columns)):
            if columns is None or _is_of(chunk.path_in_schema, columns):
                first = chunk.dictionary_page_offset or chunk.data_page_offset
                start = min(first, chunk.data_page_offset)
                spans.append((start, start + chunk.total_compressed_size))
        return sorted(spans)

    def _read_footer(self) -> pq.FileMetaData:
        data, self._size, self._version = self._get(f"-{_TAIL}", None)
        length = int.from_bytes(data[-8:-4], "little") + 8
        if length > self._size:
            raise pa.ArrowInvalid("its footer is broken")
        if data[-4:] == b"PAR1" and length > len(data):
            missing = (self._size - length, self._size - len(data))
            data = self._get(_header(missing), self._version)[0] + data
        self._tail = {self._size - len(data): data}
        # The footer with what stands before a file's first chunk is a file to read it from.
        return pq.read_metadata(pa.BufferReader(b"PAR1" + data[-length:]))

    def _fetch(self, spans: list[Span]) -> dict[int, bytes]:
        """Bytes by their place in the file, for all of the spans."""
        blocks = dict(self._tail)
        tail = next(iter(blocks), self._size)
        before = [(start, min(end, tail)) for start, end in spans if start < tail]
        stretches = _stretches(before)
        fs = open_fs(self._url, self._options)[0]

        async def get_all() -> list[tuple[bytes, int, str]]:
            asked = (self._ask(fs, _header(span), self._version) for span in stretches)
            return await asyncio.gather(*asked)

        def work() -> list[tuple[bytes, int, str]]:
            return sync(fs.loop, get_all)

        if stretches:
            found = remotely(self._url, "read", work, self._options)
            blocks |= {start: data for (start, _), (data, *_) in zip(stretches, found, strict=True)}
        return blocks

    def _get(self, span: str, version: str | None) -> tuple[bytes, int, str]:
        fs = open_fs(self._url, self._options)[0]
        return remotely(
            self._url, "read", lambda: sync(fs.loop, self._ask, fs, span, version), self._options
        )

    async def _ask(self, fs: Any, span: str, version: str | None) -> tuple[bytes, int, str]:
        """Bytes of a span, the object's size and its version."""
        bucket, key, _ = fs.split_path(self._url)
        match = {"IfMatch": version} if version else {}
        try:
            answer = await fs._call_s3(
                "get_object", Bucket=bucket, Key=key, Range=f"bytes={span}", **match
            )
        except OSError as error:
            cause = error.__cause__
            if isinstance(cause, ClientError) and cause.response["Error"]["Code"] in _OTHER_VERSION:
                raise _Replaced from error
            raise
        async with answer["Body"] as body:
            data = await body.read()
        size = int(answer.get("ContentRange", f"/{len(data)}").rpartition("/")[2])
        return data, size, answer["ETag"]


def _is_of(path: str, columns: Sequence[str]) -> bool:
    """Whether a chunk is of one of these columns: itself, or nested in it; names may hold dots."""
    return any(path == column or path.startswith(f"{column}.") for column in columns)


def _header(span: Span) -> str:
    return f"{span[0]}-{span[1] - 1}"


def _batches(groups: Sequence[int], spans: dict[int, list[Span]]) -> list[list[int]]:
    """The groups in runs whose chunks fit into memory."""
    batches: list[list[int]] = []
    held = _MEMORY
    for group in groups:
        size = sum(end - start for start, end in spans[group])
        if held + size > _MEMORY:
            batches.append([])
            held = 0
        batches[-1].append(group)
        held += size
    return batches


def _stretches(spans: list[Span]) -> list[Span]:
    """The spans, in order and without overlaps, with those together that lie close."""
    joined: list[Span] = []
    for start, end in spans:
        last = joined[-1] if joined else None
        if last and start - last[1] <= _HOLE and end - last[0] <= _STRETCH:
            joined[-1] = (last[0], end)
        else:
            joined.append((start, end))
    return joined


class _Blocks(io.RawIOBase):
    """A file of which only some stretches are there."""

    def __init__(self, blocks: dict[int, bytes], size: int) -> None:
        self._blocks, self._starts, self._size = blocks, sorted(blocks), size
        self._place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._place = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._place}.get(whence, self._size)
        return self._place

    def tell(self) -> int:
        return self._place

    def read(self, size: int = -1) -> bytes:
        parts, left = [], size
        while left > 0:  # a chunk may begin in one block and end in the next
            start = self._starts[bisect_right(self._starts, self._place) - 1]
            inside = self._place - start
            part = self._blocks[start][inside : inside + left]
            if not part:
                raise EOFError(f"byte {self._place} was not read")
            parts.append(part)
            self._place += len(part)
            left -= len(part)
        return b"".join(parts)
