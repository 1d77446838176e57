"""An event loop whose clock jumps to the next timer: sleeps take no time and are exact."""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any


class _Jumping(selectors.SelectSelector):
    now = 0.0

    def select(self, timeout: float | None = None) -> Any:
        if timeout is not None and timeout > 0:
            self.now += timeout
            timeout = 0
        return super().select(timeout)


def run_in_virtual_time(work: Coroutine[Any, Any, Any]) -> tuple[Any, float]:
    """The result, and the seconds that it would have taken. Only for work that waits on timers."""
    selector = _Jumping()
    loop = asyncio.SelectorEventLoop(selector)
    loop.time = lambda: selector.now
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        return runner.run(work), selector.now
