"""Asking this machine's fork server, which is started if there is none."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from aloe.machine import machine_has_gpu
from aloe.processes import child, server
from aloe.processes.wire import is_ours, receive, send

_ON_IMPORT: dict[str, str | None] = {
    "DS_ACCELERATOR": "cpu",
    "HF_ENDPOINT": None,
    "HF_HOME": None,
    "HF_HUB_CACHE": None,
    "HF_HUB_OFFLINE": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "LD_LIBRARY_PATH": None,
    "TOKENIZERS_PARALLELISM": "false",
    "TORCH_HOME": None,
    "VLLM_LOGGING_LEVEL": "ERROR",
    "XDG_CACHE_HOME": None,
}
"""Variables that libraries read once, on import, and what they are where nobody has set them.
Processes that differ in them get servers that differ."""
_ONE_THREAD = {
    "OPENBLAS_NUM_THREADS": "1",  # copies take as many as they want
    "JE_ARROW_MALLOC_CONF": "background_thread:false",
}
"""What keeps libraries from starting threads on import: a server with threads cannot be copied."""
_TRIES = 3
NAME = "ALOE_FORK_SERVER"
"""Environment variable: processes that differ in it have servers of their own."""
_BASE = "base"
_WORKERS = "workers"
_NOT_IN_BASE = ("ray",)
"""Ray reads once, on import, whose worker it is in: a server for one raylet's workers of one job
has it, the base does not. vLLM takes it for not installed there and has no Ray executor. Nothing
that defines remote functions or actors is imported in either: Ray draws their ids from a generator
that all copies would share."""
_OF_WORKER = ("RAY_JOB_ID", "RAY_RAYLET_PID")
OFF = "ALOE_NO_FORK"
"""Environment variable that is set where nothing is to be forked (``ray.fork_server``)."""


class Waiting:
    """A process that waits for its job. It ends when this does, or this process."""

    def __init__(self, ask: Callable[[], socket.socket]) -> None:
        """``ask`` gives a connection to such a process; called again if that one is lost."""
        self._ask = ask
        self.connection = ask()

    def begin(
        self,
        run: str,
        argv: Sequence[str],
        paths: Sequence[str],
        payload: bytes = b"",
        files: Sequence[int] = (),
    ) -> int:
        """Give it its job: this process's environment, folder and standard streams come along.

        Args:
            run: ``process`` (a pickled `multiprocessing` process), ``script`` (argv[0]) or
                ``server``.
            paths: its ``sys.path``.
            files: further file descriptors.

        Returns:
            Its process id.

        Raises:
            OSError: several were lost, one after the other.
        """
        words = {
            "run": run,
            "argv": list(argv),
            "paths": list(paths),
            "environment": dict(os.environ),
            "folder": str(Path.cwd()),
        }
        for left in reversed(range(_TRIES)):
            try:
                pid: int = receive(self.connection).words["pid"]
                send(self.connection, words, payload, [*_standard_streams(), *files])
            except OSError:  # it, or the server before there was one, was killed
                self.connection.close()
                if not left:
                    raise
                self.connection = self._ask()
            else:
                break
        return pid

    def code(self) -> int:
        """Wait for its end; its exit code, 255 if it was killed."""
        try:
            code: int = receive(self.connection).words["code"]
            self.connection.recv(1)  # what it does at its exit takes time too
        except OSError:
            return 255
        return code


def python_of_workers() -> str:
    """Ray's ``py_executable`` for workers that are copies of the fork server.

    Only for machines on which this interpreter lies at the same path.
    """
    return f"{sys.executable} -m aloe.processes.ray_worker"


def forks() -> bool:
    """Whether processes of this machine are copies of a server; else they are new interpreters."""
    return not os.environ.get(OFF) and not machine_has_gpu()


def preload(modules: Sequence[str]) -> None:
    """Let the base server import these, in its own time; returns at once.

    The server lives as long as this process, or somebody else who has asked it, does.
    """
    if forks():
        connection = _ask(modules, _BASE, os.getpid(), process=False)
        if connection is not None:
            connection.close()


def start_process(modules: Sequence[str]) -> Waiting:
    """A process that has imported these modules, or is about to."""

    def ask() -> socket.socket:
        connection = _ask(modules, _BASE, os.getpid(), process=True) if forks() else None
        return connection or _new_interpreter(modules)

    return Waiting(ask)


def start_worker(raylet: int) -> Waiting:
    """A process for a Ray worker with this process's environment.

    Args:
        raylet: its process id; the server for its workers lives as long as it does.
    """

    def ask() -> socket.socket:
        connection = _ask(("ray",), _WORKERS, raylet, process=True)
        return connection or _new_interpreter(())

    return Waiting(ask)


def _new_interpreter(modules: Sequence[str]) -> socket.socket:
    mine, its = socket.socketpair()
    with its:
        child.execute(its, modules)
    return mine


def _ask(modules: Sequence[str], kind: str, holder: int, process: bool) -> socket.socket | None:
    """A connection on which the server has a request, None if no server can be had."""
    request = {
        "modules": list(modules),
        "without": _NOT_IN_BASE if kind == _BASE else (),
        "holder": holder,
        "process": process,
    }
    address = _address(kind)
    for _ in range(_TRIES):
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.connect("\0" + address)
            if not is_ours(connection):  # it would get to know this environment
                connection.close()
                return None
            send(connection, request)
        except OSError:  # there is none, or it is just ending
            connection.close()
            _start_server(address, kind, holder)
        else:
            return connection
    return None


def _start_server(address: str, kind: str, holder: int) -> None:
    if not psutil.pid_exists(holder):  # a raylet that was killed since
        return
    if kind == _BASE:
        server.start(address, _environment())
        return

    def ask() -> socket.socket:
        base = _ask((), _BASE, holder, process=True)
        if base is None:
            raise OSError("no base server can be had")
        return base

    with suppress(OSError):
        copy = Waiting(ask)
        copy.begin("server", [address], sys.path)
        copy.code()  # it tells when it listens


def _environment() -> dict[str, str]:
    """The server's: this process's, with what is the same for all."""
    fixed = {name: os.environ.get(name, default) for name, default in _ON_IMPORT.items()}
    return {
        **os.environ,
        **{name: value for name, value in fixed.items() if value is not None},
        **_ONE_THREAD,
    }


def _address(kind: str) -> str:
    """Name of the server of a kind for this user, interpreter, code and environment."""
    environment = _environment()
    package = Path(__file__).parent.parent
    spaces = [Path(f"/proc/self/ns/{kind}") for kind in ("mnt", "pid")]
    identity = [
        kind,
        os.environ.get(NAME),
        sys.executable,
        str(package),
        max(map(_changed, package.rglob("*.py"))),
        [space.stat().st_ino for space in spaces],  # names are shared by containers of one pod
        [environment.get(name) for name in _ON_IMPORT],
        [environment.get(name) for name in _OF_WORKER] if kind != _BASE else None,
    ]
    digest = hashlib.blake2b(json.dumps(identity).encode(), digest_size=12).hexdigest()
    return f"aloe-fork-{os.getuid()}-{digest}"


def _changed(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:  # an editor's, while it saves
        return 0


def _standard_streams() -> list[int]:
    """This process's; what is closed is replaced by the null device."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.dup2(os.open(os.devnull, os.O_RDWR), number)
    return [0, 1, 2]
