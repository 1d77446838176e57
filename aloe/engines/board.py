"""What workers tell while their rows are open: turns, tokens, what calls cost, a first look.

And what they ask before a turn starts: whether the run may spend more.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from aloe.config import OpenAIModel
from aloe.engines.account import Account, Allowance
from aloe.engines.openai_parameters import Habits, known_habits
from aloe.progress import Advance, say
from aloe.storage import Usage

_TELL_EVERY_S = 1.0
_LOOK_EVERY_S = 1.0
_ANSWER_S = 10.0
_GETS_ON_S = 60.0
"""Seconds within which a worker that gets on has finished a turn."""


class Board:
    """Ray actor that adds up what all workers of a stage tell."""

    def __init__(self, allowance: Allowance) -> None:
        self._allowance = allowance
        self._turns = self._tokens = 0
        self._spent, self._unread = Usage(), Usage()
        self._facts: list[tuple[str, dict[str, str]]] = []
        self._last_turn: dict[str, float] = {}
        self._held_back: set[str] = set()

    def add(self, turns: int, tokens: int, spent: Usage, who: str = "") -> None:
        """Some turns are finished by a worker, and so much was spent on calls."""
        if turns:
            self._last_turn[who] = time.monotonic()
        self._turns += turns
        self._tokens += tokens
        self._spend(spent)

    def covers(self, spent: Usage) -> bool:
        """So much more was spent; whether another turn may start."""
        self._spend(spent)
        return self._allowance.covers(self._spent)

    def others_get_on(self, who: str) -> bool:
        """Whether workers that can go on do; this one cannot any more."""
        self._held_back.add(who)
        since = time.monotonic() - _GETS_ON_S
        others = self._last_turn.keys() - self._held_back
        return any(self._last_turn[other] > since for other in others)

    def _spend(self, usage: Usage) -> None:
        self._spent += usage
        self._unread += usage

    def tell(self, fact: str, fields: dict[str, str]) -> None:
        """Something for the user to read, and its fields for machines."""
        self._facts.append((fact, fields))

    def read(self) -> tuple[int, int, Usage, list[tuple[str, dict[str, str]]]]:
        """Turns, completion tokens, what was spent and facts since this was last called."""
        told = self._turns, self._tokens, self._unread, self._facts
        self._turns, self._tokens, self._unread, self._facts = 0, 0, Usage(), []
        return told


@dataclass(frozen=True)
class BoardLink:
    """How a worker reaches a `Board`; picklable."""

    actor: Any
    """Its handle."""
    bounded: bool
    """Whether there is a limit to ask for."""
    habits: Mapping[OpenAIModel, Habits]
    """What is known of servers, so that no worker is refused what was refused before."""


class Teller:
    """A worker's side of the board: at most one message a second, and no answer is waited for."""

    def __init__(self, link: BoardLink | None) -> None:
        """``link`` is None where nobody looks."""
        self._board = link.actor if link else None
        self._bounded = link is not None and link.bounded
        self._turns, self._tokens, self._spent = 0, 0, Usage()
        self._told_at = time.monotonic()
        self._who = uuid.uuid4().hex

    def turn(self, turns: int, tokens: int) -> None:
        """Some turns are finished."""
        self._turns += turns
        self._tokens += tokens
        if time.monotonic() - self._told_at >= _TELL_EVERY_S:
            self.flush()

    def spend(self, usage: Usage) -> None:
        """A call was answered."""
        self._spent += usage
        if time.monotonic() - self._told_at >= _TELL_EVERY_S:
            self.flush()

    async def within_limits(self) -> bool:
        """Whether the run may spend more; to be asked before a turn starts, not within one.

        Where nobody can tell any more, it may not.
        """
        from ray.exceptions import RayActorError

        if self._board is None or not self._bounded:
            return True
        spent, self._spent = self._spent, Usage()
        try:
            return bool(await self._board.covers.remote(spent))
        except RayActorError:
            return False

    async def others_get_on(self) -> bool:
        """Whether other workers finish turns, where this one cannot any more."""
        from ray.exceptions import RayActorError

        with suppress(RayActorError):
            return self._board is not None and bool(
                await self._board.others_get_on.remote(self._who)
            )
        return False

    def flush(self) -> None:
        """Tell what has not been told."""
        if self._board is not None and (self._turns or self._tokens or self._spent.calls):
            self._board.add.remote(self._turns, self._tokens, self._spent, self._who)
        self._turns, self._tokens, self._spent = 0, 0, Usage()
        self._told_at = time.monotonic()

    def tell(self, fact: str, **fields: str) -> None:
        """Something for the user to read, and its fields for machines."""
        if self._board is not None:
            self._board.tell.remote(fact, fields)


@contextmanager
def board(advance: Advance, account: Account) -> Iterator[BoardLink]:
    """A board that is read all the while: turns and tokens advance a meter, facts are said."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    remote: Any = ray.remote(Board)
    allowance = account.allowance()
    # Beside the driver: it is lost with nobody else, and a limit with it.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    handle = remote.options(num_cpus=0, scheduling_strategy=here).remote(allowance)
    over = threading.Event()

    def look() -> None:
        try:
            turns, tokens, spent, facts = ray.get(handle.read.remote(), timeout=_ANSWER_S)
        except ray.exceptions.RayError:  # lost with its node: the work itself goes on
            return
        for fact, fields in facts:
            say(fact, **fields)
        account.spend(spent)
        if turns or tokens or spent.calls:
            advance(0, tokens, turns)

    def keep_looking() -> None:
        while not over.wait(_LOOK_EVERY_S):
            look()

    thread = threading.Thread(target=keep_looking, name="board", daemon=True)
    thread.start()
    try:
        yield BoardLink(handle, allowance.bounded, known_habits())
    finally:
        over.set()
        thread.join(_ANSWER_S)
        look()
        account.note()
        ray.kill(handle)
