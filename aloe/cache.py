"""Where what is made or fetched once lies: embedded checkpoints, downloads, compiled operators."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import platformdirs

from aloe.errors import UserError

VARIABLE = "ALOE_CACHE"
"""Environment variable with the user's choice of folder."""


def cache_folder() -> Path:
    """The user's choice (ALOE_CACHE), else beside Hugging Face's cache (HF_HOME), else ~/.cache.

    Where none of the latter can be written to, as with a read-only home, a folder of this user in
    the folder for temporary files. Its parts are made by those who write them.

    Raises:
        UserError: ALOE_CACHE cannot be written to.
    """
    chosen = os.environ.get(VARIABLE)
    if chosen:
        folder = Path(chosen).expanduser().absolute()
        if not _writable(folder):
            raise UserError(f"{VARIABLE} {chosen}: expected a folder that can be written to")
        return folder
    homes = [Path(platformdirs.user_cache_dir("aloe"))]
    if os.environ.get("HF_HOME"):
        homes.insert(0, Path(os.environ["HF_HOME"]).expanduser().absolute().parent / "aloe")
    for folder in homes:
        if _writable(folder):
            return folder
    return _temporary()


def _writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK | os.X_OK)


def _temporary() -> Path:
    folder = Path(tempfile.gettempdir()) / f"aloe-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        known = folder.lstat()
    except OSError as error:
        raise UserError(f"{folder}: cannot be made ({error.strerror}); set {VARIABLE}") from error
    # Anybody may make folders there, and what lies in this one is loaded and run.
    if folder.is_symlink() or known.st_uid != os.getuid() or known.st_mode & 0o022:
        raise UserError(f"{folder}: belongs to somebody else; set {VARIABLE}")
    return folder
