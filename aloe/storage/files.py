"""Whole files by URL: read in one piece, written so that readers see the old one or the new one.

botocore repeats requests that fail. What breaks off in the middle of an answer is repeated here,
as often; after that a `UserError` names the URL. A local disk that is full, read-only or gone is
the world's fault (`on_disk`); its other errors stay as they are.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

import aiohttp
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    IncompleteReadError,
    ResponseStreamingError,
)
from fsspec.implementations.local import LocalFileSystem
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from aloe.config import StorageConfig
from aloe.errors import UserError, WorldFault
from aloe.storage.faults import disk_fault, fault_of
from aloe.storage.s3 import AT_ONCE, is_s3, open_fs, storage_in_use

PARTIAL = ".partial"
"""Ending of a file that is being written; it gets its name when it is whole."""
T = TypeVar("T")

_BROKE_OFF = (
    aiohttp.ClientPayloadError,
    IncompleteReadError,
    ResponseStreamingError,
    TimeoutError,  # an answer that stopped coming; requests without one are botocore's own kind
)


def read_bytes(url: str, options: StorageConfig | None = None) -> bytes:
    """All of one file; of an object on S3 one version, however large it is.

    Raises:
        FileNotFoundError: nothing is there.
        UserError: the object store does not answer or refuses; the URL is named.
    """
    fs, path = open_fs(url, options)
    return remotely(url, "read", lambda: fs.cat_file(path, **_in_one_request(url)), options)


def read_many(urls: list[str], options: StorageConfig | None = None) -> Iterator[bytes]:
    """All of many files of one file system, in the order of ``urls``; on S3 many at once.

    Raises:
        FileNotFoundError, UserError: see `read_bytes`; the first one that fails.
    """
    if not urls or not is_s3(urls[0]):
        yield from (read_bytes(url, options) for url in urls)
        return
    fs = open_fs(urls[0], options)[0]
    for start in range(0, len(urls), AT_ONCE):
        batch = urls[start : start + AT_ONCE]
        paths = [open_fs(url, options)[1] for url in batch]
        cat = partial(fs.cat, paths, on_error="return", **_in_one_request(batch[0]))
        found: dict[str, bytes | Exception] = remotely(batch[0], "read", cat, options)
        for url, path in zip(batch, paths, strict=True):
            data = found[path]
            # One that failed is read again alone, which tries on or raises with its name.
            yield data if isinstance(data, bytes) else read_bytes(url, options)


def write_bytes(url: str, data: bytes, options: StorageConfig | None = None) -> None:
    """Write one file; parents are made. A kill at any time leaves the old file or the new one.

    Large data goes to S3 in parts, which become visible together when the last one is there.

    Raises:
        UserError: the bucket is missing.
        WorldFault: the object store does not answer or refuses, or the disk is full.
    """
    fs, path = open_fs(url, options)
    if not isinstance(fs, LocalFileSystem):
        _written(url, partial(fs.pipe_file, path, data), options)
        return
    target = Path(path)
    unfinished = unfinished_beside(target)

    def write() -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        with unfinished.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(target)

    try:
        with on_disk(url, "written"):
            write()
    finally:
        with suppress(OSError):  # a disk that is gone, or read-only, has said so above
            unfinished.unlink(missing_ok=True)


def upload(source: Path, url: str, options: StorageConfig | None = None) -> None:
    """Write the files of a local folder under ``url``, one after the other, each as `write_bytes`.

    Raises:
        UserError: see `write_bytes`.
    """
    for file in sorted(file for file in source.rglob("*") if file.is_file()):
        target = f"{url}/{file.relative_to(source).as_posix()}"
        fs, path = open_fs(target, options)
        _written(target, partial(fs.put_file, str(file), path), options)


def remove(url: str, options: StorageConfig | None = None) -> None:
    """Remove a file, or a folder with all that is in it; nothing there is no error.

    Raises:
        UserError: the object store does not answer or refuses.
    """
    fs, path = open_fs(url, options)
    for _ in range((options or storage_in_use()).attempts):
        with suppress(FileNotFoundError):
            remotely(url, "removed", partial(fs.rm, path, recursive=True), options)
        # S3 may answer that all went well, with some files left out.
        if not is_s3(url) or not remotely(url, "listed", partial(fs.find, path), options):
            return
    raise UserError(f"{url}: cannot be removed (files are left)")


def remotely(url: str, done: str, work: Callable[[], T], options: StorageConfig | None = None) -> T:
    """Do something that may be done twice; where ``url`` is not local, again if it breaks off.

    Args:
        done: what could not be done to ``url``, for the error: read, written, listed...

    Raises:
        FileNotFoundError: as ``work`` raises it.
        UserError, WorldFault: all tries failed; ``url`` is named. See `aloe.storage.faults`.
    """
    if "://" not in url:
        with on_disk(url, done):
            return work()
    trying = Retrying(
        stop=stop_after_attempt((options or storage_in_use()).attempts),
        wait=wait_random_exponential(multiplier=0.2, max=5),
        retry=retry_if_exception(_worth_another_try),
        reraise=True,
    )
    try:
        return trying(work)
    except FileNotFoundError:
        raise
    except (OSError, BotoCoreError, ClientError, aiohttp.ClientError) as error:
        raise fault_of(url, done, error) from error


def unfinished_beside(target: Path) -> Path:
    """A name of its own for a file that will be ``target`` when it is whole."""
    return Path(f"{target}.{uuid.uuid4().hex}{PARTIAL}")


@contextmanager
def on_disk(url: str, done: str) -> Iterator[None]:
    """Name a disk that is full, read-only or gone, or a folder where a file should be.

    Other errors stay as they are.

    Args:
        done: what could not be done to ``url``, see `remotely`.

    Raises:
        WorldFault: the disk is.
        UserError: a folder is there.
    """
    try:
        yield
    except (UserError, WorldFault, FileNotFoundError):
        raise
    except IsADirectoryError as error:
        raise UserError(f"{url}: cannot be {done} (a folder is there)") from error
    except Exception as error:
        fault = disk_fault(url, done, error)
        if fault is None:
            raise
        raise fault from error


def _written(url: str, work: Callable[[], object], options: StorageConfig | None) -> None:
    try:
        remotely(url, "written", work, options)
    except FileNotFoundError as error:  # of the bucket, or of an upload that was ended meanwhile
        raise UserError(f"{url}: cannot be written ({_reason(error)})") from error


def _worth_another_try(error: BaseException) -> bool:
    cause = error.__cause__
    # The answer to the end of an upload in parts was lost: the server has ended it and forgotten.
    ended = isinstance(cause, ClientError) and cause.response["Error"]["Code"] == "NoSuchUpload"
    return ended or isinstance(error, _BROKE_OFF)


def _in_one_request(url: str) -> dict[str, int]:
    # s3fs reads large objects in concurrent ranges, which may be of different versions.
    return {"max_concurrency": 1} if is_s3(url) else {}


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
