"""Ctrl-C and SIGTERM that are not lost.

Python raises what a handler raises wherever the main thread is. Inside a destructor or a callback
of Ray's that is printed and dropped, and the run goes on. So it is remembered too, and raised again
where a run looks.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from aloe.errors import TRY_AGAIN

_END_WITHIN_S = 8.0
"""After SIGTERM: for engines to close and a manifest to be written. What is finished is on disk
already, so a process that hangs is ended then."""
_CLOSING_S = 2.0
"""Of that, what is left for engines to close."""
_RAYS_TERM_S = 2.0
"""`ray job stop` sends SIGKILL 3 s after SIGTERM."""


class Terminated(KeyboardInterrupt):
    """SIGTERM: a spot machine is taken away, a job is stopped. It ends what Ctrl-C ends."""


_seen: KeyboardInterrupt | None = None
_armed = False
_delay_s = 0.0


@contextmanager
def interruptible() -> Iterator[None]:
    """Within the block, both signals are raised at once and again by `raise_if_interrupted`."""
    global _armed  # one process, one run
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    _armed = True
    rearm()
    try:
        yield
    finally:
        _armed = False
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def ending_after(seconds: float) -> Iterator[None]:
    """Within the block SIGTERM is raised that much later: others finish what they have begun."""
    global _delay_s  # one process, one stage
    _delay_s = seconds
    try:
        yield
    finally:
        _delay_s = 0.0


def rearm() -> None:
    """Take the handlers back from who has set others, as Ray does when it starts."""
    if _armed and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, _on_interrupt)
        signal.signal(signal.SIGTERM, _on_terminate)


@contextmanager
def beside_other_handlers() -> Iterator[None]:
    """Take the handlers back after the block; Ray's exit with the signal's number meanwhile."""
    try:
        yield
    except SystemExit as left:
        if left.code == signal.SIGTERM:
            raise _terminated() from left
        raise
    finally:
        rearm()


def raise_if_interrupted() -> None:
    """To be called now and then by the main thread's long loops.

    Raises:
        KeyboardInterrupt: there was a signal that went unnoticed (`Terminated`: SIGTERM).
    """
    if _seen:
        raise _seen


def _on_interrupt(number: int, frame: FrameType | None) -> None:
    global _seen  # one process, one Ctrl-C
    _seen = KeyboardInterrupt()
    raise _seen


def _on_terminate(number: int, frame: FrameType | None) -> None:
    if not isinstance(_seen, Terminated):  # else it is ending
        raise _terminated()


def _terminated() -> Terminated:
    """What SIGTERM raises; from now on there is little time."""
    global _seen
    _seen = Terminated()
    within_s = _RAYS_TERM_S if "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ else _END_WITHIN_S
    ending = threading.Timer(within_s, os._exit, (TRY_AGAIN,))
    ending.daemon = True
    ending.start()
    if _delay_s + _CLOSING_S <= within_s:
        time.sleep(_delay_s)
    return _seen
