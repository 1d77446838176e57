"""What a raylet starts instead of an interpreter: it lets a copy of the fork server be the worker.

``python -m aloe.processes.ray_worker default_worker.py OPTIONS`` waits until that worker ends.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from aloe.processes.client import forks, start_worker


def main() -> int:
    """Be the worker, by proxy; its exit code."""
    argv = sys.argv[1:]
    if not forks():
        os.execv(sys.executable, [sys.executable, *argv])  # noqa: S606
    raylet = int(os.environ["RAY_RAYLET_PID"])
    if os.getppid() != raylet:  # it was killed since
        return 1
    paths = [str(Path(argv[0]).parent), *sys.path[1:]]  # as for a script
    worker = start_worker(raylet)
    worker.begin("script", argv, paths)
    return worker.code()


if __name__ == "__main__":
    sys.exit(main())
