"""Processes for the cores of vLLM's engines, which import vLLM while their callers do, or before.

vLLM spawns a core when its caller has imported everything: two imports, one after the other.
"""

from __future__ import annotations

import io
import logging
import multiprocessing.process
import os
import sys
import threading
from collections import deque
from contextlib import suppress
from multiprocessing import Pipe, context, popen_fork, popen_forkserver, reduction
from multiprocessing.connection import Connection, wait
from typing import Any

from aloe.machine import machine_has_gpu
from aloe.processes import Waiting, start_process
from aloe.progress import phase

MODULES = (
    "vllm.v1.engine.async_llm",
    "vllm.v1.worker.gpu_worker" if machine_has_gpu() else "vllm.v1.worker.cpu_worker",
    "vllm.model_executor.models.llama",
)
"""What brings in all that an engine's caller and its core import."""

_PHASES = {
    "vllm.v1.worker.cpu_model_runner": {"Starting to load model": "loading weights"},
    "vllm.v1.worker.gpu_model_runner": {"Starting to load model": "loading weights"},
    "vllm.v1.worker.gpu.model_runner": {"Loading model from scratch": "loading weights"},
    "vllm.compilation.backends": {"for vLLM's torch.compile": "compiling"},
}
"""Loggers of vLLM in a core -> part of what they say -> what a start is at then."""

_prepared: deque[Waiting] = deque()


def prepare_core() -> None:
    """Begin a process for the next core; to be called before vLLM is imported."""
    _prepared.append(start_process(MODULES))


def use_prepared_cores() -> None:
    """Let vLLM start its cores in prepared processes; a second call changes nothing."""
    from vllm.utils.system_utils import get_mp_context
    from vllm.v1.engine import utils

    def context() -> _Context:
        get_mp_context()  # it also tells the core, by the environment, how to start workers
        return _Context()

    utils.get_mp_context = context  # type: ignore[attr-defined]


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
    """A core that tells its caller what its start is at."""

    _start_method = "spawn"

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._heard, self._telling = Pipe(duplex=False)

    def start(self) -> None:
        super().start()
        self._telling.close()
        threading.Thread(target=_hear, args=(self._heard,), name="phases", daemon=True).start()

    def run(self) -> None:
        from vllm.v1.engine import core

        configure = core.configure_logging  # type: ignore[attr-defined]

        def then_listen(config: Any) -> None:
            configure(config)  # sets the level of every logger anew
            for name, signs in _PHASES.items():
                logger = logging.getLogger(name)
                logger.setLevel(logging.INFO)
                logger.addFilter(_Teller(self._telling, signs))

        core.configure_logging = then_listen  # type: ignore[attr-defined]
        super().run()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_heard": None}

    @staticmethod
    def _Popen(process: Any) -> _Popen:  # noqa: N802  (multiprocessing's name)
        return _Popen(process)


class _Teller(logging.Filter):
    """Tells phases by a logger's messages, and lets through what would have been logged anyway."""

    def __init__(self, telling: Connection, signs: dict[str, str]) -> None:
        super().__init__()
        self._telling, self._signs = telling, signs

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        for sign, name in self._signs.items():
            if sign in message:
                with suppress(OSError):  # nobody listens any more
                    self._telling.send_bytes(name.encode())
        return record.levelno >= logging.getLogger("vllm").level


def _hear(heard: Connection) -> None:
    with suppress(EOFError, OSError):
        while True:
            phase(heard.recv_bytes().decode())


class _Context(context.SpawnContext):
    Process = _CoreProcess  # type: ignore[assignment]
