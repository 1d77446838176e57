"""Folders on an object store as local folders, for libraries that only know those."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

from fsspec.implementations.local import LocalFileSystem

from aloe.cache import cache_folder
from aloe.config import StorageConfig
from aloe.errors import UserError
from aloe.storage.files import remotely, unfinished_beside
from aloe.storage.s3 import open_fs


def is_folder_name(name: str) -> bool:
    """Whether a model's name is a path or URL, not a Hugging Face id."""
    return "://" in name or name.startswith((".", "/", "~"))


def holds(folder: str, file: str, options: StorageConfig | None = None) -> bool:
    """Whether a local folder or one on an object store has a file; nothing is copied.

    Raises:
        UserError: the store does not answer or refuses.
    """
    url = f"{folder.rstrip('/')}/{file}"
    fs, path = open_fs(url, options)
    return remotely(url, "read", lambda: bool(fs.exists(path)), options)


def localize(url: str, options: StorageConfig | None = None, without: tuple[str, ...] = ()) -> str:
    """A local folder with the files of ``url``: itself if local, else a copy in the user's cache.

    Names that are no URL and no folder (Hugging Face ids) come back unchanged.

    Args:
        options: how to reach the store; None is what the process uses.
        without: endings of names of files that are not fetched.

    Raises:
        UserError: no files there, or the store does not answer.
    """
    if "://" not in url:
        return str(Path(url).expanduser()) if url.startswith("~") else url
    fs, path = open_fs(url, options)
    if isinstance(fs, LocalFileSystem):
        return path
    found = remotely(url, "listed", lambda: fs.find(path, detail=True), options)
    files = {
        name: info
        for name, info in sorted(found.items())
        if info["name"].startswith(f"{path}/") and not name.endswith(without)
    }
    if not files:
        raise UserError(f"{url}: no files there")
    state = repr([(name, info.get("size"), info.get("ETag")) for name, info in files.items()])
    key = hashlib.sha256(f"{url} {state}".encode()).hexdigest()[:16]
    target = cache_folder() / "downloads" / key
    if target.exists():
        return str(target)
    partial = unfinished_beside(target)
    try:
        for name in files:
            inside = name.removeprefix(f"{path}/")
            if not inside.endswith("/"):  # an object that only marks a folder
                download(f"{url.rstrip('/')}/{inside}", partial / inside, options)
        partial.rename(target)
    except OSError:
        if not target.exists():  # else another process was faster
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return str(target)


def download(url: str, target: Path, options: StorageConfig | None = None) -> None:
    """Copy one file to a local one.

    Raises:
        UserError: the store does not answer or refuses.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    fs, path = open_fs(url, options)
    remotely(url, "read", lambda: fs.get_file(path, str(target)), options)
