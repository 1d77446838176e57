"""What this machine is and has; the one place that asks whether there is a GPU."""

from __future__ import annotations

import os
import sys
from pathlib import Path
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


def cores() -> list[int]:
    """CPU numbers that this process may run on."""
    return sorted(os.sched_getaffinity(0))


def use_reserved_threads() -> None:
    """Compute matrix products with OMP_NUM_THREADS threads, one on each core if it is not set.

    Ray sets it in its workers to the CPUs that are reserved; libraries that were there before, as
    in a copy of the fork server (`aloe.processes`), would not look again.
    """
    threads = int(os.environ.get("OMP_NUM_THREADS") or len(cores()))
    torch: Any = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(threads)
    if "numpy" in sys.modules:
        from threadpoolctl import ThreadpoolController

        ThreadpoolController().limit(limits=threads, user_api="blas")
