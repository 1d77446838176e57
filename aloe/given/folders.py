"""Which files of a folder hold a data set's rows."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath
from typing import Any

from aloe.errors import UserError
from aloe.storage import read_bytes
from aloe.storage.files import remotely
from aloe.storage.s3 import open_fs

COMPRESSED = (".gz", ".bz2", ".xz", ".lzma", ".zst", ".zip")
"""Endings of files that are unpacked as they are read."""
_KINDS = ((".parquet",), (".jsonl", ".ndjson"), (".csv",), (".tsv",), (".json",))
"""Endings of files with rows; the first kind that is there is read."""
_NO_ROWS = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")
"""What `datasets` and the hub write down beside them."""


def unpacked(path: str) -> PurePosixPath:
    """A file's name in small letters, without the ending that says how it is compressed."""
    name = PurePosixPath(path.lower())
    return name.with_suffix("") if name.suffix in COMPRESSED else name


def files_of(folder: str) -> list[str]:
    """URLs of a folder's files with rows, in order of their names; nothing of them is read.

    Raises:
        UserError: there are none.
    """
    there = _names(folder)
    saved = [name for state in there if _is(state, "state.json") for name in _saved(folder, state)]
    kinds = (_of_kind(there, endings) for endings in _KINDS)
    names = saved or next((found for found in kinds if found), [])
    if not names:
        known = ", ".join(ending for endings in _KINDS for ending in endings)
        raise UserError(f"{folder}: no data set there (no state.json of datasets, no {known})")
    return [_url(folder, name) for name in names]


def _names(folder: str) -> list[str]:
    """Names of all files below, but for hidden ones."""
    fs, inside = open_fs(folder)
    root = inside.rstrip("/")
    found: list[str] = remotely(folder, "listed", lambda: fs.find(inside))
    names = (path.removeprefix(f"{root}/") for path in found if path != root)
    seen = (name for name in names if not any(p.startswith(".") for p in name.split("/")))
    return sorted(seen, key=lambda name: name.split("/"))


def _of_kind(names: Iterable[str], endings: tuple[str, ...]) -> list[str]:
    found = (name for name in names if unpacked(name).suffix in endings)
    return [name for name in found if PurePosixPath(name).name not in _NO_ROWS]


def _saved(folder: str, state: str) -> Iterator[str]:
    """Names of the files of a data set that was saved; none if a ``state.json`` is of others."""
    try:
        values: Any = json.loads(read_bytes(_url(folder, state)))
    except (ValueError, RecursionError):
        return
    files = values.get("_data_files") if isinstance(values, dict) else None
    for file in files if isinstance(files, list) else ():
        if isinstance(file, dict) and isinstance(file.get("filename"), str):
            yield str(PurePosixPath(state).parent / file["filename"])


def _is(name: str, wanted: str) -> bool:
    return PurePosixPath(name).name == wanted


def _url(folder: str, name: str) -> str:
    return f"{folder.rstrip('/')}/{name}"
