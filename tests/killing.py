"""Killing a training when a state of it is kept."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from processes import children_titled

from aloe.storage import Store


def step_kept(store: Store, kind: str) -> int:
    """Steps of the last state that is whole; 0 if there is none."""
    names = store.names(f"training/{kind}/state")
    return max((int(name.split(".")[0]) for name in names if name.endswith(".json")), default=0)


@contextmanager
def killed_after(store: Store, kind: str, step: int, worker: str) -> Iterator[None]:
    """SIGKILL all ranks as soon as a state of that many steps is kept."""
    over = threading.Event()

    def wait() -> None:
        while not over.is_set():
            if step_kept(store, kind) >= step:
                for process in children_titled(worker):
                    process.kill()
                return
            time.sleep(0.02)

    thread = threading.Thread(target=wait)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
