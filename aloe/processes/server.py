"""The fork server: imports modules once, and is copied for whoever needs them.

It ends when none of the processes that hold it is left, or when nobody has asked for long.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path

import psutil

from aloe.machine import machine_has_gpu
from aloe.processes import child
from aloe.processes.wire import is_ours, receive

NAME = "aloe-forks"
"""What process lists call a server; its copies are called by what they become."""
_LOOK_EVERY_S = 1.0
_REQUEST_WITHIN_S = 5.0
_GRACE_S = 5.0
"""For whoever has started a server to ask it."""
_IDLE_S = 900.0
"""On a cluster that lives for days the server does not: it is started again when it is wanted."""

_started: list[subprocess.Popen[bytes]] = []
"""Servers that this process has started: its children, which it does not wait for."""


def main(address: str, ready: int) -> None:
    """Bind the address and serve; return at once if another one does.

    Args:
        address: name in Linux's abstract namespace, where a bound name goes with its process.
        ready: file descriptor that is closed when the caller can connect.
    """
    listener = listen(address)
    # Ray ends the children of its workers; the server must outlive the worker that started it.
    detached = "RAY_RAYLET_PID" in os.environ
    if listener is not None and not (detached and os.fork()):
        os.close(ready)
        serve(listener)


def listen(address: str) -> socket.socket | None:
    """Bind an address; None if somebody else has."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind("\0" + address)
    except OSError:
        listener.close()
        return None
    listener.listen(128)
    return listener


def serve(listener: socket.socket) -> None:
    """Answer requests until nobody needs this server any more."""
    Path("/proc/self/comm").write_text(NAME)
    holders: dict[int, psutil.Process] = {}
    began = asked_at = time.monotonic()
    listener.settimeout(_LOOK_EVERY_S)
    while True:
        try:
            connection, _ = listener.accept()
        except TimeoutError:
            now = time.monotonic()
            held = any(map(_lives, holders.values())) or now - began < _GRACE_S
            if not held or now - asked_at > _IDLE_S:
                return
            continue
        finally:
            _reap()
        with connection:
            asked_at = time.monotonic()
            if not is_ours(connection):
                continue
            connection.settimeout(_REQUEST_WITHIN_S)
            try:
                request = receive(connection).words
            except (OSError, ValueError):
                continue
            connection.settimeout(None)
            _hold(holders, request["holder"])
            with _ending_without(holders):
                _import(request["modules"], request["without"])
            if not request["process"]:
                continue
            if not _may_fork():
                child.execute(connection)
            elif os.fork() == 0:
                listener.close()
                child.serve(connection)


def _reap() -> None:
    """Let go of copies that have ended."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            continue


def _hold(holders: dict[int, psutil.Process], pid: int) -> None:
    if pid <= 1:  # the caller's parent was killed: init holds nothing
        return
    try:
        holders[pid] = psutil.Process(pid)
    except psutil.NoSuchProcess:
        return


@contextmanager
def _ending_without(holders: Mapping[int, psutil.Process]) -> Iterator[None]:
    """End within a long import when no holder is left: by a signal, since there is no thread."""

    def look(*_: object) -> None:
        if not any(map(_lives, holders.values())):
            os._exit(0)

    before = signal.signal(signal.SIGALRM, look)
    signal.setitimer(signal.ITIMER_REAL, _LOOK_EVERY_S, _LOOK_EVERY_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _import(modules: Iterable[str], without: Iterable[str]) -> None:
    missing = [name for name in modules if name not in sys.modules]
    hidden = [name for name in without if name not in sys.modules]
    for name in hidden:
        sys.modules[name] = None  # type: ignore[assignment]  # cannot be imported
    for name in missing:
        with suppress(Exception):  # whatever it is, whoever needs the module is told there
            import_module(name)
    for name in hidden:
        del sys.modules[name]
    if missing:
        gc.collect()
        gc.freeze()  # the collector would touch, and so copy, what all copies share


def _may_fork() -> bool:
    """Whether a copy of this process can work: threads are not copied, nor what CUDA holds."""
    if machine_has_gpu():
        return False
    if len(list(Path("/proc/self/task").iterdir())) > 1:
        return False
    torch = sys.modules.get("torch")
    return torch is None or not torch.cuda.is_initialized()


def start(address: str, environment: dict[str, str]) -> None:
    """Start a server and return when it, or another one, listens at the address.

    Raises:
        OSError: no process can be started.
    """
    listening, ready = os.pipe()
    paths = [str(path) for path in sys.path]
    code = (
        f"import sys; sys.path[:] = {paths!r}; "
        f"from aloe.processes.server import main; main({address!r}, {ready})"
    )
    _started.append(
        subprocess.Popen(
            [sys.executable, "-c", code],
            env=environment,
            pass_fds=[ready],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is the caller's
        )
    )
    os.close(ready)
    with os.fdopen(listening, "rb") as end:
        end.read()
