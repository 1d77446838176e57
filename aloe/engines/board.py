"""What workers tell while their rows are open: turns, tokens, and a first look at what is made."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from aloe.progress import Advance, say

_TELL_EVERY_S = 1.0
_LOOK_EVERY_S = 1.0
_ANSWER_S = 10.0


class Board:
    """Ray actor that adds up what all workers of a stage tell."""

    def __init__(self) -> None:
        self._turns = self._tokens = 0
        self._facts: list[tuple[str, dict[str, str]]] = []

    def add(self, turns: int, tokens: int) -> None:
        """Some turns are finished."""
        self._turns += turns
        self._tokens += tokens

    def tell(self, fact: str, fields: dict[str, str]) -> None:
        """Something for the user to read, and its fields for machines."""
        self._facts.append((fact, fields))

    def read(self) -> tuple[int, int, list[tuple[str, dict[str, str]]]]:
        """Turns, completion tokens and facts since this was last called."""
        told = self._turns, self._tokens, self._facts
        self._turns, self._tokens, self._facts = 0, 0, []
        return told


class Teller:
    """A worker's side of the board: at most one message a second, and no answer is waited for."""

    def __init__(self, board: Any) -> None:
        """``board`` is the handle of a `Board`, None where nobody looks."""
        self._board, self._turns, self._tokens = board, 0, 0
        self._told_at = time.monotonic()

    def turn(self, turns: int, tokens: int) -> None:
        """Some turns are finished."""
        self._turns += turns
        self._tokens += tokens
        if time.monotonic() - self._told_at >= _TELL_EVERY_S:
            self.flush()

    def flush(self) -> None:
        """Tell what has not been told."""
        if self._board is not None and (self._turns or self._tokens):
            self._board.add.remote(self._turns, self._tokens)
        self._turns = self._tokens = 0
        self._told_at = time.monotonic()

    def tell(self, fact: str, **fields: str) -> None:
        """Something for the user to read, and its fields for machines."""
        if self._board is not None:
            self._board.tell.remote(fact, fields)


@contextmanager
def board(advance: Advance) -> Iterator[Any]:
    """A board that is read all the while: turns and tokens advance a meter, facts are said."""
    import ray

    remote: Any = ray.remote(Board)
    handle = remote.options(num_cpus=0).remote()
    over = threading.Event()

    def look() -> None:
        try:
            turns, tokens, facts = ray.get(handle.read.remote(), timeout=_ANSWER_S)
        except ray.exceptions.RayError:  # lost with its node: the work itself goes on
            return
        for fact, fields in facts:
            say(fact, **fields)
        if turns or tokens:
            advance(0, tokens, turns)

    def keep_looking() -> None:
        while not over.wait(_LOOK_EVERY_S):
            look()

    thread = threading.Thread(target=keep_looking, name="board", daemon=True)
    thread.start()
    try:
        yield handle
    finally:
        over.set()
        thread.join(_ANSWER_S)
        look()
        ray.kill(handle)
