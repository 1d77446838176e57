"""Processes that need not import what this machine has imported before.

`server` is a fork server: one process for each user and environment of a machine, which imports
what it is asked to and of which copies are made from then on. Ray's workers (`ray_worker`) and the
cores of engines (`aloe.engines.vllm_core`) are such copies: `child` says how a copy becomes what it
is wanted for. `client` finds the server, or starts it, and asks.

Nothing is forked where CUDA may be in use: a machine with a GPU gets new interpreters instead,
which import while their callers do. Every process ends with its caller, however that ends; of what
Ray starts, `reaper` sees to that.
"""

from aloe.processes.client import (
    NAME,
    OFF,
    Waiting,
    forks,
    preload,
    python_of_workers,
    start_process,
)
from aloe.processes.reaper import reap

__all__ = [
    "NAME",
    "OFF",
    "Waiting",
    "forks",
    "preload",
    "python_of_workers",
    "reap",
    "start_process",
]
