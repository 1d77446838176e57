"""Progress of long work: a bar on a terminal, a line now and then in a log, JSON for machines."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

console = Console(stderr=True, highlight=False)
_LOG_EVERY_S = 10.0
_json_lines = False
_silent = False
_speaking = threading.Lock()
_take_phase: Callable[[str], None] = lambda text: None  # noqa: E731


def use_json(enabled: bool) -> None:
    """Print every event as one JSON line on stdout instead of text."""
    global _json_lines
    _json_lines = enabled


@contextmanager
def silently() -> Iterator[None]:
    """Within the block nothing is told, except by errors."""
    global _silent
    before, _silent, console.quiet = _silent, True, True
    try:
        yield
    finally:
        _silent = console.quiet = before


def telling_json() -> bool:
    """Whether facts are told as JSON lines."""
    return _json_lines


def say(text: str, **fields: object) -> None:
    """Tell one fact: as text on stderr, or as a JSON line with ``fields``."""
    if _silent:
        return
    if _json_lines:
        line = json.dumps({"message": text, **fields}) + "\n"
        with _speaking:  # a board's thread tells too
            sys.stdout.write(line)
            sys.stdout.flush()
    else:
        console.print(text, markup=False, soft_wrap=True)


def excerpt(text: str, most: int = 160) -> str:
    """What a model said, as one line of a terminal: no control characters, not too long."""
    line = " ".join("".join(sign if sign.isprintable() else " " for sign in text).split())
    return line if len(line) <= most else f"{line[: most - 1]}…"


def on_phase(take: Callable[[str], None]) -> None:
    """From now on ``take`` hears what long starts in this process are at."""
    global _take_phase
    _take_phase = take


def phase(text: str) -> None:
    """Tell what a long start is at ("loading weights"); nobody may be listening."""
    _take_phase(text)


class Advance(Protocol):
    """Called when items, or turns of items, finish; ``tokens`` are completion tokens."""

    def __call__(self, items: int = 1, tokens: int = 0, turns: int = 0) -> None: ...


class Spending(Protocol):
    """What is spent of what may be; see `aloe.engines.account.Account`."""

    def line(self) -> str: ...

    def fields(self) -> dict[str, object]: ...


class Meter:
    """Counts finished items, their turns and tokens; knows rate and time left."""

    def __init__(
        self,
        label: str,
        total: int,
        done: int = 0,
        turns_each: int | None = None,
        spending: Spending | None = None,
    ) -> None:
        """Count from now on.

        Args:
            turns_each: turns of one item. Where there are any, progress is counted in turns: items
                that are all open at once end at about the same time.
            spending: shown beside the count.
        """
        self._spending = spending
        self.label, self.total, self.done, self.tokens = label, total, done, 0
        self._each = turns_each or 1
        self.turns = done * self._each
        self.turns_total = total * self._each
        self._by_turns = turns_each is not None
        self._resumed_from, self._start = self.turns, time.monotonic()

    def advance(self, items: int, tokens: int, turns: int) -> None:
        """Something more is finished."""
        self.done += items
        self.tokens += tokens
        # Of a failed item, turns are missing at its end.
        more = self.turns + (turns if self._by_turns else items)
        self.turns = min(max(more, self.done * self._each), self.turns_total)

    def count(self) -> str:
        """How far it is."""
        turns = f", turns {self.turns}/{self.turns_total}" if self._by_turns else ""
        spent = self._spending.line() if self._spending else ""
        return f"{self.done}/{self.total}{turns}{f', {spent}' if spent else ''}"

    def line(self) -> str:
        """Rate in items (or turns) and completion tokens per second, and seconds left."""
        seconds = max(time.monotonic() - self._start, 1e-6)
        fresh = self.turns - self._resumed_from
        left = (self.turns_total - self.turns) * seconds / fresh if fresh else float("nan")
        eta = f"{left:.0f} s left" if fresh else "time left unknown"
        tokens = f", {self.tokens / seconds:.1f} tok/s" if self.tokens else ""
        unit = " turns/s" if self._by_turns else "/s"
        return f"{fresh / seconds:.2f}{unit}{tokens}, {eta}"

    def fields(self) -> dict[str, object]:
        """The numbers, for machines."""
        turns = {"turns": self.turns, "turns_total": self.turns_total} if self._by_turns else {}
        return {
            "label": self.label,
            "done": self.done,
            "total": self.total,
            **turns,
            "tokens": self.tokens,
            **(self._spending.fields() if self._spending else {}),
        }


@contextmanager
def meter(
    label: str,
    total: int,
    done: int = 0,
    turns_each: int | None = None,
    spending: Spending | None = None,
) -> Iterator[Advance]:
    """Show progress over ``total`` items of which ``done`` are there already.

    Args:
        turns_each, spending: see `Meter`.
    """
    state = Meter(label, total, done, turns_each, spending)
    live = console.is_terminal and not _json_lines
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[count]}"))
    bar = Progress(
        *columns, TextColumn("{task.fields[rate]}"), TimeElapsedColumn(), console=console
    )
    task = bar.add_task(
        label, total=state.turns_total, completed=state.turns, rate="", count=state.count()
    )
    last = time.monotonic()
    lock = threading.Lock()  # a board's thread advances too

    def advance(items: int = 1, tokens: int = 0, turns: int = 0) -> None:
        nonlocal last
        with lock:
            state.advance(items, tokens, turns)
            now = time.monotonic()
            if live:
                bar.update(task, completed=state.turns, rate=state.line(), count=state.count())
            elif now - last >= _LOG_EVERY_S or (items and state.done == state.total):
                last = now
                say(f"{label}: {state.count()} ({state.line()})", **state.fields())

    if not live:
        say(f"{label}: {state.count()}", **state.fields())
        yield advance
    else:
        with bar:
            yield advance
    sys.stderr.flush()
