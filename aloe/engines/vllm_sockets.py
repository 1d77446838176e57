"""Where vLLM's processes meet: a folder whose name leaves room for those of sockets."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from aloe.errors import UserError

_VARIABLE = "VLLM_RPC_BASE_PATH"
_LONGEST = 107 - len("/00000000-0000-0000-0000-000000000000")
"""Of the 107 bytes that the path of a Unix socket may have; vLLM names it by a UUID."""
_SHORT = ("/tmp", "/dev/shm", "/var/tmp", "/run/lock")  # noqa: S108


def shorten_sockets() -> None:
    """Let vLLM's sockets lie in a short folder where that for temporary files is too long.

    To be called before vLLM is imported.

    Raises:
        UserError: no short folder can be written to, or the user has chosen one that is too long.
    """
    chosen = os.environ.get(_VARIABLE)
    if chosen:
        if not _fits(chosen):
            raise UserError(
                f"{_VARIABLE} {chosen}: too long for vLLM's sockets, expected at most {_LONGEST} "
                "bytes"
            )
        return
    folder = tempfile.gettempdir()
    if _fits(folder):
        return
    short = (os.environ.get("RAY_TMPDIR", ""), *_SHORT)
    found = next((path for path in short if path and _fits(path) and _usable(path)), None)
    if found is None:
        raise UserError(
            f"TMPDIR {folder}: too long for vLLM's sockets, expected at most {_LONGEST} bytes; set "
            f"{_VARIABLE} to a shorter folder"
        )
    os.environ[_VARIABLE] = found


def _fits(folder: str) -> bool:
    return len(os.fsencode(folder.rstrip("/"))) <= _LONGEST


def _usable(folder: str) -> bool:
    return Path(folder).is_absolute() and os.access(folder, os.W_OK | os.X_OK)
