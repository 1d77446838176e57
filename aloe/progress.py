"""Progress of long work: a bar on a terminal, a line now and then in a log, JSON for machines."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

console = Console(stderr=True, highlight=False)
_LOG_EVERY_S = 10.0
_json_lines = False


def use_json(enabled: bool) -> None:
    """Print every event as one JSON line on stdout instead of text."""
    global _json_lines
    _json_lines = enabled


def telling_json() -> bool:
    """Whether facts are told as JSON lines."""
    return _json_lines


def say(text: str, **fields: object) -> None:
    """Tell one fact: as text on stderr, or as a JSON line with ``fields``."""
    if _json_lines:
        print(json.dumps({"message": text, **fields}), flush=True)
    else:
        console.print(text, markup=False, soft_wrap=True)


class Advance(Protocol):
    """Called when items finish; ``tokens`` are completion tokens."""

    def __call__(self, items: int = 1, tokens: int = 0) -> None: ...


class Meter:
    """Counts finished items and tokens; knows rate and time left."""

    def __init__(self, label: str, total: int, done: int = 0) -> None:
        self.label, self.total, self.done, self.tokens = label, total, done, 0
        self._resumed_from, self._start = done, time.monotonic()

    def line(self) -> str:
        """Rate in items and completion tokens per second, and seconds left at that rate."""
        seconds = max(time.monotonic() - self._start, 1e-6)
        fresh = self.done - self._resumed_from
        left = (self.total - self.done) * seconds / fresh if fresh else float("nan")
        eta = f"{left:.0f} s left" if fresh else "time left unknown"
        tokens = f", {self.tokens / seconds:.1f} tok/s" if self.tokens else ""
        return f"{fresh / seconds:.2f}/s{tokens}, {eta}"

    def fields(self) -> dict[str, object]:
        return {"label": self.label, "done": self.done, "total": self.total, "tokens": self.tokens}


@contextmanager
def meter(label: str, total: int, done: int = 0) -> Iterator[Advance]:
    """Show progress over ``total`` items of which ``done`` are there already."""
    state = Meter(label, total, done)
    live = console.is_terminal and not _json_lines
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    bar = Progress(
        *columns, TextColumn("{task.fields[rate]}"), TimeElapsedColumn(), console=console
    )
    task = bar.add_task(label, total=total, completed=done, rate="")
    last = time.monotonic()

    def advance(items: int = 1, tokens: int = 0) -> None:
        nonlocal last
        state.done += items
        state.tokens += tokens
        if live:
            bar.update(task, completed=state.done, rate=state.line())
        elif time.monotonic() - last >= _LOG_EVERY_S or (items and state.done == state.total):
            last = time.monotonic()
            say(f"{label}: {state.done}/{total} ({state.line()})", **state.fields())

    if not live:
        say(f"{label}: {done}/{total}", **state.fields())
        yield advance
    else:
        with bar:
            yield advance
    sys.stderr.flush()
