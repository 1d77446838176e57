"""A run directory over fsspec: atomic small files and Parquet tables with checked schemas."""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import platformdirs
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from aloe.errors import UserError
from aloe.schema import check_version


@dataclass(frozen=True)
class Store:
    """Files under one root URL. Picklable: it holds no connection."""

    root: str

    def __post_init__(self) -> None:
        if "://" not in self.root:  # workers may have another working directory
            object.__setattr__(self, "root", str(Path(self.root).expanduser().absolute()))

    @property
    def fs(self) -> fsspec.AbstractFileSystem:
        return fsspec.core.url_to_fs(self.root)[0]

    def path(self, *parts: str) -> str:
        """Path inside the file system of `fs`, without the protocol."""
        return "/".join([fsspec.core.url_to_fs(self.root)[1].rstrip("/"), *parts])

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
            self.write_text(".probe", "")
            self.fs.rm_file(self.path(".probe"))
        except Exception as error:
            raise UserError(f"run.dir {self.root}: cannot be written ({error})") from error

    def exists(self, *parts: str) -> bool:
        return bool(self.fs.exists(self.path(*parts)))

    def names(self, *parts: str) -> list[str]:
        """Sorted names of the files in a folder; empty when there is none."""
        folder = self.path(*parts)
        fs = self.fs
        fs.invalidate_cache(folder)
        if not fs.exists(folder):
            return []
        return sorted(entry.rsplit("/", 1)[-1] for entry in fs.ls(folder, detail=False))

    def finished(self, *parts: str) -> set[str]:
        """Ids of the items that lie in a folder as ``<id>.parquet``."""
        return {
            name.removesuffix(".parquet")
            for name in self.names(*parts)
            if name.endswith(".parquet")
        }

    def read_text(self, *parts: str) -> str:
        with self.fs.open(self.path(*parts), "rb") as file:
            return file.read().decode()

    def write_text(self, name: str, text: str) -> None:
        self.write_bytes(name, text.encode())

    def write_bytes(self, name: str, data: bytes) -> None:
        """Readers see the old file or the new one, never a part."""
        fs, target = self.fs, self.path(name)
        if not isinstance(fs, LocalFileSystem):  # a PUT is atomic
            fs.pipe_file(target, data)
            return
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        partial = Path(f"{target}.{uuid.uuid4().hex}.partial")
        try:
            with partial.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)

    def write_table(self, name: str, rows: Iterable[dict[str, Any]], schema: pa.Schema) -> None:
        """Write rows as one Parquet file, with the schema's version in its metadata."""
        table = pa.Table.from_pylist(list(rows), schema=schema)
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd")
        self.write_bytes(name, sink.getvalue().to_pybytes())

    def read_table(
        self, name: str, schema: pa.Schema, columns: list[str] | None = None
    ) -> pa.Table:
        """Read one Parquet file, or all of a folder's in order of their names.

        Raises:
            UserError: nothing is there, or it was written with another schema version.
        """
        names = (
            [name]
            if name.endswith(".parquet")
            else [f"{name}/{item}.parquet" for item in sorted(self.finished(name))]
        )
        tables = [self._read_file(part, schema, columns) for part in names]
        wanted = schema if columns is None else pa.schema([schema.field(key) for key in columns])
        return pa.concat_tables(tables) if tables else wanted.empty_table()

    def _read_file(self, name: str, schema: pa.Schema, columns: list[str] | None) -> pa.Table:
        if not self.exists(name):
            raise UserError(f"{self.url(name)}: missing; run the stage that writes it first")
        with self.fs.open(self.path(name), "rb") as file:
            parquet = pq.ParquetFile(file)
            check_version(parquet.schema_arrow, schema, self.url(name))
            return parquet.read(columns=columns)


def localize(url: str) -> str:
    """A local folder with the files of ``url``: itself if local, else a copy in the user's cache.

    Names that are no URL and no folder (Hugging Face ids) come back unchanged.
    """
    if "://" not in url:
        return url
    fs, path = fsspec.core.url_to_fs(url)
    if isinstance(fs, LocalFileSystem):
        return path
    files = sorted(fs.find(path, detail=True).items())
    if not files:
        raise UserError(f"{url}: no files there")
    state = repr([(name, info.get("size"), info.get("ETag")) for name, info in files])
    key = hashlib.sha256(f"{url} {state}".encode()).hexdigest()[:16]
    target = Path(platformdirs.user_cache_dir("aloe")) / "downloads" / key
    if not target.exists():
        partial = target.with_name(f"{key}.{uuid.uuid4().hex}.partial")
        fs.get(path, str(partial), recursive=True)
        try:
            partial.rename(target)
        except OSError:  # another process was faster
            fsspec.filesystem("file").rm(str(partial), recursive=True)
    return str(target)
