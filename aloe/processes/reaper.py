"""Ends what a Ray of this machine leaves behind when its driver is killed.

Raylet and GCS are killed with their driver. Ray's agents notice that within two seconds, and then
try for a minute to tell the GCS (`ray._private.process_watcher.report_raylet_error_logs`).

This file is also the reaper's program; it imports nothing but the standard library.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

_GRACE_S = 3.0
"""For processes that end in order."""
_LOOK_EVERY_S = 0.2

_reaper: subprocess.Popen[bytes] | None = None


def reap() -> None:
    """Let the processes of any Ray that this process starts end soon after it, however it ends.

    They have three seconds to do so themselves.
    """
    global _reaper
    if _reaper is None:
        _reaper = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__, str(os.getpid())],
            stdin=subprocess.PIPE,  # closed by the system, whatever ends this process
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is the driver's
        )


def _left_of(driver: str) -> list[int]:
    """Processes that write logs of a Ray session, whose folder is named by its driver's pid."""
    # Neither command line nor environment tells: Ray's processes overwrite both with their titles.
    log = re.compile(rf"/session_[^/]*_{driver}/logs/")
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and folder.name != driver:
            with suppress(OSError):  # it has ended, or is somebody else's
                if any(log.search(str(file.readlink())) for file in (folder / "fd").iterdir()):
                    found.append(int(folder.name))
    return found


def _main(driver: str) -> None:
    sys.stdin.buffer.read()
    end = time.monotonic() + _GRACE_S
    while _left_of(driver) and time.monotonic() < end:
        time.sleep(_LOOK_EVERY_S)
    for pid in _left_of(driver):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    _main(sys.argv[1])
