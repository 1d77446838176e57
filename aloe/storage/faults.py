"""Whose fault it is that a file cannot be read or written: the one classifier of the storage."""

from __future__ import annotations

import errno

import aiohttp
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

from aloe.errors import UserError, WorldFault

_FULL = {errno.ENOSPC: "disk full", errno.EDQUOT: "disk quota spent", errno.EROFS: "read-only disk"}
"""Somebody has to see to it."""
_SAID_FULL = ("No space left on device", "PytorchStreamWriter failed writing")
"""How libraries that raise no OSError (safetensors, torch) say the same."""
_GONE = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH)
"""A network disk, or S3, that may come back."""


def fault_of(url: str, done: str, error: Exception) -> UserError | WorldFault:
    """What an error means for who asked; to be raised from it.

    Args:
        done: what could not be done to ``url``: read, written, listed...
    """
    line = f"{url}: cannot be {done} ({' '.join(str(error).split()) or type(error).__name__})"
    cause = error.__cause__ if isinstance(error.__cause__, ClientError) else error
    if isinstance(cause, ClientError):
        status = cause.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        if status >= 500 or status == 429:
            return WorldFault(line, passes=True)
        refused = status in (401, 403)
        return WorldFault(line, passes=False) if refused else UserError(line)
    if isinstance(error, FileNotFoundError):
        return UserError(line)
    if isinstance(error, NoCredentialsError | PermissionError):
        return WorldFault(line, passes=False) if "://" in url else UserError(line)
    if isinstance(error, BotoCoreError | aiohttp.ClientError | TimeoutError | ConnectionError):
        return WorldFault(line, passes=True)
    return disk_fault(url, done, error) or UserError(line)


def disk_fault(url: str, done: str, error: Exception) -> WorldFault | None:
    """That a disk is full, read-only or gone, if this is what an error means."""
    line = f"{url}: cannot be {done} ({' '.join(str(error).split()) or type(error).__name__})"
    if _is_full(error):
        return WorldFault(line, passes=False)
    if isinstance(error, OSError) and error.errno in _GONE:
        return WorldFault(line, passes=True)
    return None


def _is_full(error: Exception) -> bool:
    if isinstance(error, OSError) and error.errno in _FULL:
        return True
    return any(words in str(error) for words in _SAID_FULL)
