"""A process that waits for what it is to be: a copy of the fork server, or a new interpreter.

Its caller's end of the connection is its life: when that closes, it ends at once.
"""

from __future__ import annotations

import io
import os
import pickle
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from multiprocessing import forkserver
from pathlib import Path
from typing import Any, NoReturn

import setproctitle

from aloe.machine import use_reserved_threads
from aloe.processes.wire import Message, receive, send


def serve(connection: socket.socket, watched: bool = False) -> NoReturn:
    """Tell the caller who this is, wait for the job, do it, tell its exit code, end.

    Args:
        watched: this process ends with its caller already.
    """
    code = 1
    try:
        send(connection, {"pid": os.getpid()})
        job = receive(connection)
    except OSError:
        os._exit(code)
    if os.getpgid(0) != os.getpid():
        os.setsid()  # what ends the server's process group is not for its copies
    if job.words["run"] == "server":
        _be_a_server(connection, job)
    if not watched:
        _end_with(connection)
    _become(job)
    if job.words["run"] == "process":
        code = _run_process(job)
        _tell(connection, code)
        os._exit(code)  # as multiprocessing does: taking the interpreter apart takes seconds
    try:
        runpy.run_path(job.words["argv"][0], run_name="__main__")
        code = 0
    except SystemExit as ending:
        code = ending.code if isinstance(ending.code, int) else int(ending.code is not None)
        raise
    finally:
        _tell(connection, code)
    sys.exit(code)


def _be_a_server(connection: socket.socket, job: Message) -> NoReturn:
    """Outlive the caller, and be copied in turn."""
    from aloe.processes import server

    for given in job.files:
        os.close(given)
    os.environ.update(job.words["environment"])
    sys.path[:] = job.words["paths"]
    listener = server.listen(job.words["argv"][0])
    _tell(connection, 0)
    connection.close()
    if listener is not None:
        server.serve(listener)
    os._exit(0)


def execute(connection: socket.socket, modules: Sequence[str] = ()) -> None:
    """Let a new interpreter `serve` at this end of a connection.

    Args:
        modules: imported while it waits.
    """
    number = connection.fileno()
    code = (
        f"import sys; sys.path[:] = {[str(path) for path in sys.path]!r}; "
        f"from aloe.processes.child import main; main({number}, {list(modules)!r})"
    )
    subprocess.Popen(
        [sys.executable, "-c", code],
        pass_fds=[number],
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )


def main(number: int, modules: list[str]) -> NoReturn:
    """What `execute` starts."""
    connection = socket.socket(fileno=number)
    _end_with(connection)
    for name in modules:
        with suppress(Exception):  # whatever it is, whoever needs the module is told there
            import_module(name)
    serve(connection, watched=True)


def _become(job: Message) -> None:
    """Take over the caller's files, environment, folder and paths."""
    Path("/proc/self/comm").write_text("python")
    if job.words["run"] == "process":
        # It finds its place only while the first environment is there. Ray's workers have their own
        # way to a title, which does not work after this one.
        setproctitle.getproctitle()
    for own, given in enumerate(job.files[:3]):
        os.dup2(given, own)
        os.close(given)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(line_buffering=True)
    os.environ.clear()
    os.environ.update(job.words["environment"])
    os.chdir(job.words["folder"])
    sys.argv = job.words["argv"]
    sys.path[:] = job.words["paths"]
    use_reserved_threads()
    numpy: Any = sys.modules.get("numpy")
    if numpy is not None:  # all copies would draw the same; Python's own generator sees to itself
        numpy.random.seed()


def _end_with(connection: socket.socket) -> None:
    own = connection.dup()  # open for as long as this process lives

    def wait() -> None:
        hang_up = select.poll()
        hang_up.register(own, select.POLLRDHUP)
        hang_up.poll()
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=wait, name="caller", daemon=True).start()


def _run_process(job: Message) -> int:
    """Run a `multiprocessing` process that its caller has pickled."""
    # Where it looks for files that came along.
    forkserver._forkserver._inherited_fds = job.files[3:]  # type: ignore[attr-defined]
    process = pickle.loads(job.payload)  # noqa: S301  (of our own caller, same user)
    code: int = process._bootstrap()
    return code


def _tell(connection: socket.socket, code: int) -> None:
    try:
        send(connection, {"code": code})
    except OSError:
        return
