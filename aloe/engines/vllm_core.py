"""Processes for the cores of vLLM's engines, which import vLLM while their callers do, or before.

vLLM spawns a core when its caller has imported everything: two imports, one after the other.
"""

from __future__ import annotations

import io
import multiprocessing.process
import os
import sys
from collections import deque
from multiprocessing import context, popen_fork, popen_forkserver, reduction
from multiprocessing.connection import wait
from typing import Any

from aloe.machine import machine_has_gpu
from aloe.processes import Waiting, start_process

MODULES = (
    "vllm.v1.engine.async_llm",
    "vllm.v1.worker.gpu_worker" if machine_has_gpu() else "vllm.v1.worker.cpu_worker",
    "vllm.model_executor.models.llama",
)
"""What brings in all that an engine's caller and its core import."""

_prepared: deque[Waiting] = deque()


def prepare_core() -> None:
    """Begin a process for the next core; to be called before vLLM is imported."""
    _prepared.append(start_process(MODULES))


def use_prepared_cores() -> None:
    """Let vLLM start its cores in prepared processes; a second call changes nothing."""
    from vllm.v1.engine import utils

    utils.get_mp_context = _Context  # type: ignore[attr-defined]


class _Popen(popen_fork.Popen):
    """A `multiprocessing` process that was there before it was wanted."""

    method = "prepared"
    DupFd = popen_forkserver._DupFd  # type: ignore[attr-defined]

    def __init__(self, process: Any) -> None:
        self._files: list[int] = []
        super().__init__(process)

    def duplicate_for_child(self, fd: int) -> int:
        self._files.append(fd)
        return len(self._files) - 1

    def _launch(self, process: Any) -> None:
        payload = io.BytesIO()
        context.set_spawning_popen(self)  # type: ignore[attr-defined,arg-type]
        try:
            reduction.dump(process, payload)
        finally:
            context.set_spawning_popen(None)  # type: ignore[attr-defined]
        self._waiting = _prepared.popleft() if _prepared else start_process(MODULES)
        self.pid = self._waiting.begin(
            "process", sys.argv, sys.path, payload.getvalue(), self._files
        )
        self.sentinel = self._waiting.connection.fileno()

    def poll(self, flag: int = os.WNOHANG) -> int | None:
        if self.returncode is None:
            if not wait([self.sentinel], 0 if flag == os.WNOHANG else None):
                return None
            self.returncode = self._waiting.code()
        return self.returncode


class _CoreProcess(multiprocessing.process.BaseProcess):
    _start_method = "spawn"

    @staticmethod
    def _Popen(process: Any) -> _Popen:  # noqa: N802  (multiprocessing's name)
        return _Popen(process)


class _Context(context.SpawnContext):
    Process = _CoreProcess  # type: ignore[assignment]
