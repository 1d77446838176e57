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
    """State: how many conversations may be open, and the counters at the last observation."""

    limit: int
    most: int
    """Bound of the limit from above; the bound from below is 1."""
    preemptions: int = 0
    reusable_tokens: int = 0
    cached_tokens: int = 0
    careful: bool = False
    """The limit was cut before: it grows by looks."""
    observations: int = 0
    """Since the last look."""


def begin(load: Load, most: int) -> Admission:
    """The first state: half of what the engine computes at once; growth does the rest."""
    return _counted(Admission(min(max(load.capacity // 2, 1), most), most), load)


def observe(state: Admission, load: Load, open_now: int) -> Admission:
    """The next state.

    Args:
        load: the engine's numbers now; of several engines see `busiest`.
        open_now: conversations open now. A limit that is not reached says nothing about the
            engine, so it does not grow.
    """
    verdict = judge(state, load)
    state = replace(state, observations=state.observations + 1)
    if verdict == "thrash":
        # Of what is open, not of the limit: those over the limit leave only when they end, and
        # until then the same thrash is seen again and again.
        limit = max(min(state.limit, int(open_now * _CUT)), 1)
        return _counted(replace(state, limit=limit, careful=True), load)
    looked = _looked(state, load)
    if verdict == "room" and open_now >= state.limit and (looked or not state.careful):
        growth = _CAREFUL_GROWTH if state.careful else _GROWTH - 1
        grown = state.limit + max(int(state.limit * growth), 1)
        state = replace(state, limit=min(grown, state.most))
    # Until enough prompts have been seen, the counters of the last look stand.
    return _counted(state, load) if looked else replace(state, preemptions=load.preemptions)


def _looked(state: Admission, load: Load) -> bool:
    reusable = load.reusable_tokens - state.reusable_tokens
    if not state.careful:
        return reusable >= _ENOUGH_TOKENS
    tokens = max(_LOOK_TOKENS * state.limit, _ENOUGH_TOKENS)
    return reusable >= tokens or state.observations >= _LOOK_OBSERVATIONS


def judge(state: Admission, load: Load) -> Verdict:
    """What the numbers since the last observation say."""
    reusable = load.reusable_tokens - state.reusable_tokens
    lost = reusable - (load.cached_tokens - state.cached_tokens)
    if load.preemptions > state.preemptions:
        return "thrash"
    if reusable >= _ENOUGH_TOKENS and lost > _LOST_PREFIX * reusable:
        return "thrash"
    return "full" if _full(load) else "room"


def busiest(loads: Iterable[Load]) -> Load:
    """One load for all the engines that a conversation needs: the fullest, with all counters.

    Raises:
        ValueError: there is no engine.
    """
    every = list(loads)
    fullest = max(every, key=_fullness)
    return replace(
        fullest,
        preemptions=sum(load.preemptions for load in every),
        reusable_tokens=sum(load.reusable_tokens for load in every),
        cached_tokens=sum(load.cached_tokens for load in every),
    )


def _full(load: Load) -> bool:
    return load.waiting > 0 or load.running >= load.capacity or load.kv_usage > _FULL_KV


def _fullness(load: Load) -> tuple[bool, int, float, float]:
    return _full(load), load.waiting, load.kv_usage, load.running / load.capacity


def _counted(state: Admission, load: Load) -> Admission:
    return replace(
        state,
        preemptions=load.preemptions,
        reusable_tokens=load.reusable_tokens,
        cached_tokens=load.cached_tokens,
        observations=0,
    )
