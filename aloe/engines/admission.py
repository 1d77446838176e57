"""How many conversations an actor keeps open: a state machine fed with its engines' load.

Enough to fill the engine, never into thrash. It touches no clock and no engine: `observe` is a
function of the state and of what was seen. More conversations are admitted while the engine has
room; none while it has a queue; fewer when calls lose their KV cache (preemption), or when
prefixes are gone before they are used again, because too many conversations share the cache.

A conversation enters with a short history and stays until it ends. So a limit that is too high
shows late, and a cut takes effect late: until the first cut the limit grows quickly, after it only
by a little each time that the open conversations have shown that they fit.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from aloe.engines.base import Load

Verdict = Literal["room", "full", "thrash"]

_FULL_KV = 0.85
"""KV usage above which nobody new is admitted: running calls still grow."""
_LOST_PREFIX = 0.3
"""Share of reusable prompt tokens computed again from which on the cache counts as thrashing."""
_ENOUGH_TOKENS = 2048
"""Reusable tokens that a look at the prefix cache needs at least."""
_GROWTH, _CUT = 1.25, 0.75
_CAREFUL_GROWTH = 1 / 16
"""Growth of a limit that was cut before: far less than a cut, so that it stays near the edge."""
_LOOK_TOKENS = 1024
"""Reusable tokens per open conversation that make a look after a cut: some calls of each."""
_LOOK_OBSERVATIONS = 240
"""Observations that make a look where fewer tokens come, as from an engine without a cache."""


@dataclass(frozen=True)
class Admission:
    """State: how many conversations may be open, and what was seen of each engine."""

    limit: int
    most: int
    """Bound of the limit from above; the bound from below is 1."""
    seen: tuple[Load, ...] = ()
    """What the next look counts from, one per engine that a conversation needs."""
    careful: bool = False
    """The limit was cut before: it grows by looks."""
    observations: int = 0
    """Since the last look."""


def begin(loads: Iterable[Load], most: int) -> Admission:
    """The first state: half of what the smallest engine computes at once; growth does the rest.

    Raises:
        ValueError: there is no engine.
    """
    seen = tuple(loads)
    smallest = min(load.capacity for load in seen)
    return Admission(min(max(smallest // 2, 1), most), most, seen)


def observe(state: Admission, loads: Iterable[Load], open_now: int) -> Admission:
    """The next state.

    Args:
        loads: the numbers of each engine now, always in the same order.
        open_now: conversations open now. A limit that is not reached says nothing about the
            engines, so it does not grow.
    """
    now = tuple(loads)
    if len(now) != len(state.seen):  # one has joined: nobody is counted from before
        state = replace(state, seen=now)
    verdict = judge(state, now)
    if verdict == "thrash":
        # Of what is open, not of the limit: those over the limit leave only when they end, and
        # until then the same thrash is seen again and again.
        limit = max(min(state.limit, int(open_now * _CUT)), 1)
        return replace(state, limit=limit, seen=now, careful=True, observations=0)
    state = replace(state, observations=state.observations + 1)
    looks = [_looked(state, *pair) for pair in zip(state.seen, now, strict=True)]
    if verdict == "room" and open_now >= state.limit and (any(looks) or not state.careful):
        growth = _CAREFUL_GROWTH if state.careful else _GROWTH - 1
        grown = state.limit + max(int(state.limit * growth), 1)
        state = replace(state, limit=min(grown, state.most))
    # Until an engine has seen enough prompts, it is counted from its last look.
    seen = [
        load if looked else replace(before, preemptions=load.preemptions)
        for before, load, looked in zip(state.seen, now, looks, strict=True)
    ]
    return replace(state, seen=tuple(seen), observations=0 if any(looks) else state.observations)


def _looked(state: Admission, before: Load, now: Load) -> bool:
    reusable, _ = _tokens_since(before, now)
    if not state.careful:
        return reusable >= _ENOUGH_TOKENS
    tokens = max(_LOOK_TOKENS * state.limit, _ENOUGH_TOKENS)
    return reusable >= tokens or state.observations >= _LOOK_OBSERVATIONS


def judge(state: Admission, loads: Iterable[Load]) -> Verdict:
    """What the numbers since the last look say: one engine that thrashes, or is full, is enough."""
    now = list(loads)
    if any(_thrashes(before, load) for before, load in zip(state.seen, now, strict=True)):
        return "thrash"
    return "full" if any(map(_full, now)) else "room"


def _thrashes(before: Load, now: Load) -> bool:
    reusable, cached = _tokens_since(before, now)
    lost = reusable - cached
    return now.preemptions > before.preemptions or (
        reusable >= _ENOUGH_TOKENS and lost > _LOST_PREFIX * reusable
    )


def _tokens_since(before: Load, now: Load) -> tuple[int, int]:
    """Reusable and cached tokens since then; an engine that was replaced counts from zero again."""
    if now.reusable_tokens < before.reusable_tokens:
        return now.reusable_tokens, now.cached_tokens
    return (
        now.reusable_tokens - before.reusable_tokens,
        now.cached_tokens - before.cached_tokens,
    )


def _full(load: Load) -> bool:
    return load.waiting > 0 or load.running >= load.capacity or load.kv_usage > _FULL_KV
