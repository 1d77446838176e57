"""The token by which the processes of a Ray that is started here know each other."""

from __future__ import annotations

import os
import secrets
import tempfile
from pathlib import Path

_GIVEN = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
_MODE = "RAY_AUTH_MODE"


def ensure_token() -> None:
    """Where Ray can keep no token of its own, as with a read-only home, make one for this run.

    It is known to this process and those that it starts, and is written nowhere.
    """
    unwanted = os.environ.get(_MODE, "token").lower() != "token"
    if unwanted or any(map(os.environ.get, _GIVEN)) or _kept():
        return
    os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def _kept() -> bool:
    """Whether Ray finds its token in the home, or can write one there."""
    try:
        token = Path.home() / ".ray" / "auth_token"
        if token.exists():
            return bool(token.read_text().strip()) or os.access(token, os.W_OK)
        token.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=token.parent) as probe:
            probe.write(bytes(64))  # a full disk still takes empty files
        return True
    except (OSError, RuntimeError, UnicodeDecodeError):  # RuntimeError: this user has no home
        return False
