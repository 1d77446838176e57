"""A run directory over fsspec: atomic small files and Parquet tables with checked schemas."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from aloe.config import Config, StorageConfig
from aloe.errors import UserError, WorldFault
from aloe.schema import check_version
from aloe.storage.files import PARTIAL, read_bytes, read_many, remotely, remove, upload, write_bytes
from aloe.storage.ranges import ParquetSource, parquet_named, with_parquet
from aloe.storage.s3 import AT_ONCE, is_s3, open_fs, use_storage

T = TypeVar("T")

STATISTICS = ("split",)
"""Columns by which row groups are chosen, see `aloe.storage.slices`."""
_ROW_GROUP = 4096
_PROBE_BYTES = 64 << 10


@dataclass(frozen=True)
class Store:
    """Files under one root URL. Picklable: it holds no connection."""

    root: str
    options: StorageConfig = field(default_factory=StorageConfig)
    """How to reach the root if it is on an object store."""

    def __post_init__(self) -> None:
        if "://" not in self.root:  # workers may have another working directory
            object.__setattr__(self, "root", str(Path(self.root).expanduser().absolute()))

    def __setstate__(self, state: dict[str, Any]) -> None:
        # A worker of the run: its checkpoints are read with the run's settings too.
        self.__dict__.update(state)
        use_storage(self.options)

    @property
    def fs(self) -> fsspec.AbstractFileSystem:
        return open_fs(self.root, self.options)[0]

    def path(self, *parts: str) -> str:
        """Path inside the file system of `fs`, without the protocol."""
        return "/".join([open_fs(self.root, self.options)[1].rstrip("/"), *parts])

    def url(self, *parts: str) -> str:
        """The same place as `path`, with the protocol."""
        return "/".join([self.root.rstrip("/"), *parts])

    def check_reachable(self) -> None:
        """Look whether the root is there; whether it is does not matter.

        Raises:
            UserError: the file system does not answer, or not without credentials.
        """
        try:
            self.fs.exists(self.path())
        except Exception as error:
            raise UserError(f"run.dir {self.root}: cannot be reached ({error})") from error

    def check_writable(self) -> None:
        """Write and remove a probe file.

        Raises:
            UserError: nothing can be written under the root.
        """
        try:
            self.write_bytes(".probe", bytes(_PROBE_BYTES))  # a full disk still takes empty files
            self.remove(".probe")
        except (UserError, WorldFault) as error:
            raise UserError(f"run.dir {error}") from error
        except Exception as error:
            raise UserError(f"run.dir {self.root}: cannot be written ({error})") from error

    def exists(self, *parts: str) -> bool:
        """Whether a file or a folder is there now, whoever wrote it."""
        return self._remotely("read", parts, lambda: bool(self.fs.exists(self.path(*parts))))

    def names(self, *parts: str) -> list[str]:
        """Sorted names of what lies in a folder now; empty when there is none.

        A file that a killed process has left half written is not there.
        """
        folder = self.path(*parts)
        try:
            found = self._remotely("listed", parts, lambda: self.fs.ls(folder, detail=False))
        except FileNotFoundError:
            return []
        names = (entry.rstrip("/").rsplit("/", 1)[-1] for entry in found if entry != folder)
        return sorted(name for name in names if not name.endswith(PARTIAL))

    def finished(self, *parts: str) -> set[str]:
        """Ids of the items that lie in a folder as ``<id>.parquet``."""
        return {
            name.removesuffix(".parquet")
            for name in self.names(*parts)
            if name.endswith(".parquet")
        }

    def read_bytes(self, *parts: str) -> bytes:
        """See `aloe.storage.files.read_bytes`."""
        return read_bytes(self.url(*parts), self.options)

    def read_text(self, *parts: str) -> str:
        return self.read_bytes(*parts).decode()

    def read_texts(self, names: list[str]) -> dict[str, str]:
        """Text by name of many small files; on S3 many are read at once.

        What is no UTF-8 becomes U+FFFD.

        Raises:
            FileNotFoundError: one of them is not there.
        """
        found = read_many([self.url(name) for name in names], self.options)
        texts = (data.decode(errors="replace") for data in found)
        return dict(zip(names, texts, strict=True))

    def write_text(self, name: str, text: str) -> None:
        self.write_bytes(name, text.encode())

    def write_bytes(self, name: str, data: bytes) -> None:
        """Readers see the old file or the new one, never a part."""
        write_bytes(self.url(name), data, self.options)

    def upload(self, source: Path, name: str) -> None:
        """Copy the files of a local folder; each one, but not the folder, appears in one piece."""
        upload(source, self.url(name), self.options)

    def remove(self, *parts: str) -> None:
        """Remove a file, or a folder with all that is in it; nothing there is no error."""
        remove(self.url(*parts), self.options)

    def write_table(
        self,
        name: str,
        rows: Iterable[dict[str, Any]],
        schema: pa.Schema,
        row_group: int = _ROW_GROUP,
    ) -> None:
        """Write rows as one Parquet file, with the schema's version in its metadata.

        Args:
            row_group: rows that are read together, see `aloe.storage.slices`.
        """
        table = pa.Table.from_pylist(list(rows), schema=schema)
        sink = pa.BufferOutputStream()
        pq.write_table(
            table,
            sink,
            compression="zstd",
            row_group_size=row_group,
            # Of a text column they would be whole texts, in a footer that everybody reads.
            write_statistics=[column for column in schema.names if column in STATISTICS],
        )
        self.write_bytes(name, sink.getvalue().to_pybytes())

    def read_table(
        self, name: str, schema: pa.Schema, columns: list[str] | None = None
    ) -> pa.Table:
        """Read one Parquet file, or all of a folder's in order of their names.

        A name with a suffix is a file's.

        Raises:
            UserError: nothing is there, or it was written with another schema version.
        """
        names = (
            [name]
            if "." in name.rsplit("/", 1)[-1]
            else [f"{name}/{item}.parquet" for item in sorted(self.finished(name))]
        )
        urls = [self.url(name) for name in names]
        try:
            if columns is None:
                files = zip(urls, read_many(urls, self.options), strict=True)
                tables = [_parse(url, data, schema) for url, data in files]
            else:
                tables = list(self._read_columns(urls, schema, columns))
        except FileNotFoundError:
            raise UserError(
                f"{self.url(name)}: missing; run the stage that writes it first"
            ) from None
        wanted = schema if columns is None else pa.schema([schema.field(key) for key in columns])
        return pa.concat_tables(tables) if tables else wanted.empty_table()

    def _read_columns(
        self, urls: list[str], schema: pa.Schema, columns: list[str]
    ) -> Iterator[pa.Table]:
        def read(url: str) -> pa.Table:
            return with_parquet(url, partial(_columns_of, url, schema, columns), self.options)

        if len(urls) < 2 or not is_s3(self.root):
            yield from map(read, urls)
            return
        with ThreadPoolExecutor(AT_ONCE) as threads:
            yield from threads.map(read, urls)

    def _remotely(self, done: str, parts: tuple[str, ...], work: Callable[[], T]) -> T:
        return remotely(self.url(*parts), done, work, self.options)


def run_store(config: Config) -> Store:
    """The store of a run; from now on this process reaches S3 as the run's settings say."""
    use_storage(config.storage)
    return Store(config.run.dir, config.storage)


def _parse(url: str, data: bytes, schema: pa.Schema) -> pa.Table:
    with parquet_named(url):
        parquet = pq.ParquetFile(pa.BufferReader(data))
        check_version(parquet.schema_arrow, schema, url)
        return parquet.read()


def _columns_of(url: str, schema: pa.Schema, columns: list[str], file: ParquetSource) -> pa.Table:
    check_version(file.schema, schema, url)
    return file.read(range(file.metadata.num_row_groups), columns).select(columns)
