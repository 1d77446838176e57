"""What this machine is and has; the one place that asks whether there is a GPU."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any


def prefer_own_programs() -> None:
    """Find programs of this interpreter's environment, such as ninja, before others.

    Builds of DeepSpeed's operators go by the ninja that made them: each of two versions that take
    turns would build everything again.
    """
    own = str(Path(sys.executable).parent)
    path = os.environ.get("PATH", os.defpath).split(os.pathsep)
    if path[0] != own:
        os.environ["PATH"] = os.pathsep.join([own, *path])


def has_gpu() -> bool:
    """Whether this process sees a CUDA device."""
    import torch

    return torch.cuda.is_available()


def machine_has_gpu() -> bool:
    """Whether this machine has a CUDA driver, asked without importing torch."""
    return Path("/dev/nvidiactl").exists()


def usable_cores(root: Path = Path("/")) -> int:
    """CPUs that this process may run on at once: those of its affinity, or its container's quota.

    Args:
        root: where ``proc`` and ``sys`` lie.
    """
    quota = _quota(root)
    allowed = len(os.sched_getaffinity(0))
    return allowed if quota is None else max(1, min(allowed, math.ceil(quota)))


def _quota(root: Path) -> float | None:
    """CPUs' worth of time that the process's control groups give it; None if they do not say."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return None
    found: list[float] = []
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if not controllers:  # version 2
            found += _each_above(root / "sys/fs/cgroup", group, _quota_v2)
        elif "cpu" in controllers.split(","):
            for mount in (controllers, "cpu"):
                found += _each_above(root / "sys/fs/cgroup" / mount, group, _quota_v1)
    return min(found, default=None)


def _each_above(mount: Path, group: str, read: Callable[[Path], float | None]) -> Iterator[float]:
    """Quotas of a group and of all that it lies in; a container may see its own as the mount."""
    inside = PurePosixPath(group.lstrip("/"))
    for part in (inside, *inside.parents):
        if ".." not in part.parts:
            with suppress(OSError, ValueError):
                quota = read(mount / part)
                if quota is not None:
                    yield quota


def _quota_v2(folder: Path) -> float | None:
    quota, period = (folder / "cpu.max").read_text().split()
    return None if quota == "max" else int(quota) / int(period)


def _quota_v1(folder: Path) -> float | None:
    quota = int((folder / "cpu.cfs_quota_us").read_text())
    return quota / int((folder / "cpu.cfs_period_us").read_text()) if quota > 0 else None


def reserved_threads() -> int:
    """OMP_NUM_THREADS, in a worker of Ray the CPUs that are reserved, but no more than cores.

    A Ray of ours has at least four logical CPUs, on however few cores.
    """
    cores = usable_cores()
    return min(int(os.environ.get("OMP_NUM_THREADS") or cores), cores)


def use_reserved_threads() -> None:
    """Compute matrix products with OMP_NUM_THREADS threads, one on each core if it is not set.

    Ray sets it in its workers to the CPUs that are reserved; libraries that were there before, as
    in a copy of the fork server (`aloe.processes`), would not look again.
    """
    threads = reserved_threads()
    torch: Any = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(threads)
    if "numpy" in sys.modules:
        from threadpoolctl import ThreadpoolController

        ThreadpoolController().limit(limits=threads, user_api="blas")
