"""Whether to ask a server, or a disk, that may be down: a state machine without clock and calls.

Closed, everybody asks. After a refusal (`aloe.errors.WorldFault`) nobody does but one call now and
then, the probe: an answer closes the breaker again. It stops for good when the fault cannot pass by
itself, or when nobody was answered for ``patience_s``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 30.0
"""Seconds before a probe; doubled after each that is refused."""


@dataclass(frozen=True)
class Breaker:
    """State. Times are seconds of any one monotonic clock."""

    patience_s: float
    since: float | None = None
    """When the first call was refused; None while it is closed."""
    probe_at: float = math.inf
    """When the next probe is due."""
    pause_s: float = _FIRST_PAUSE_S
    probing: bool = False
    """A probe is on its way."""
    reason: str = ""
    """What the last refusal said."""
    stopped: bool = False


class Step(NamedTuple):
    """What a call does now."""

    do: Literal["ask", "probe", "wait", "stop"]
    wait_s: float = 0.0


def begin(patience_s: float) -> Breaker:
    """The first state: closed."""
    return Breaker(patience_s)


def step(state: Breaker, now: float) -> Step:
    """What a call that wants to ask does at ``now``. Who is told to probe takes `probe`."""
    if state.stopped:
        return Step("stop")
    if state.since is None:
        return Step("ask")
    ends_at = state.since + state.patience_s
    if now >= ends_at:
        return Step("stop")
    if not state.probing and now >= state.probe_at:
        return Step("probe")
    return Step("wait", (ends_at if state.probing else min(state.probe_at, ends_at)) - now)


def probe(state: Breaker) -> Breaker:
    """The state while a probe is on its way."""
    return replace(state, probing=True)


def unprobed(state: Breaker, now: float) -> Breaker:
    """The state after a probe was given up by its caller: the next may go at once."""
    return replace(state, probing=False, probe_at=min(state.probe_at, now))


def refused(
    state: Breaker,
    reason: str,
    passes: bool,
    now: float,
    probe: bool = False,
    since: float | None = None,
    after_s: float = 0.0,
) -> Breaker:
    """The state after a call met a `WorldFault`, or hears of one that it still works on.

    Args:
        passes: whether it may pass by itself.
        probe: the call was the probe.
        since: when nobody was answered for the first time; ``now`` if not given.
        after_s: how long it asks to wait; beyond the end of patience that is not begun.
    """
    if state.stopped:
        return state
    began = state.since if state.since is not None else now if since is None else since
    if not passes or now + after_s >= began + state.patience_s:
        return stop(replace(state, reason=reason, since=began))
    if state.since is None:
        probe_at = now + max(_FIRST_PAUSE_S, after_s)
        return replace(state, since=began, probe_at=probe_at, reason=reason)
    if not probe:  # one of those that were on their way
        return replace(state, probe_at=max(state.probe_at, now + after_s)) if after_s else state
    pause_s = min(2 * state.pause_s, _LONGEST_PAUSE_S)
    probe_at = now + max(pause_s, after_s)
    return replace(state, pause_s=pause_s, probe_at=probe_at, probing=False, reason=reason)


def answered(state: Breaker) -> Breaker:
    """The state after a call was answered, by whatever: closed, unless it has stopped."""
    return state if state.stopped else Breaker(state.patience_s)


def stop(state: Breaker) -> Breaker:
    """The state after patience is at its end."""
    return replace(state, stopped=True, probing=False)
