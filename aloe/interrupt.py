"""Ctrl-C that is not lost.

Python raises KeyboardInterrupt wherever the main thread is. Inside a destructor or a callback of
Ray's that is printed and dropped, and the run goes on. So it is remembered too, and raised again
where a run looks.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_seen = False


@contextmanager
def interruptible() -> Iterator[None]:
    """Within the block, an interrupt is raised at once and again by `raise_if_interrupted`."""
    before = signal.signal(signal.SIGINT, _on_interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def raise_if_interrupted() -> None:
    """To be called now and then by the main thread's long loops.

    Raises:
        KeyboardInterrupt: there was an interrupt that went unnoticed.
    """
    if _seen:
        raise KeyboardInterrupt


def _on_interrupt(number: int, frame: FrameType | None) -> None:
    global _seen  # one process, one Ctrl-C
    _seen = True
    raise KeyboardInterrupt
