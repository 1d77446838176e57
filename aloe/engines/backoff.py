"""How many calls a server takes at once: additive increase, multiplicative decrease.

As in TCP, one limit follows what the server says: it is halved when the server is busy and grows by
one for each limit's worth of answers. A state machine without clock and connections; the times it
is given are seconds of any one monotonic clock.
"""

from __future__ import annotations

import email.utils
import math
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Backoff:
    """State: how many calls may be in flight."""

    limit: int
    most: int
    """Bound of the limit from above; the bound from below is 1."""
    answers: int = 0
    """Answers since the limit last changed."""
    halved_at: float = -math.inf
    """When the limit was last halved."""


def begin(most: int) -> Backoff:
    """The first state: all that is allowed, until the server says otherwise."""
    return Backoff(limit=most, most=most)


def answered(state: Backoff, sent_at: float, in_flight: int) -> Backoff:
    """The state after the server answered a call that was sent at ``sent_at``.

    Answers to calls from before the last halving say nothing about the new limit, and neither do
    answers while it is not reached.

    Args:
        in_flight: calls in flight when the answer came, the answered one included.
    """
    if sent_at < state.halved_at or in_flight < state.limit or state.limit == state.most:
        return state
    if state.answers + 1 < state.limit:
        return replace(state, answers=state.answers + 1)
    return replace(state, limit=state.limit + 1, answers=0)


def busy(state: Backoff, sent_at: float, now: float) -> Backoff:
    """The state after the server refused, as busy, a call that was sent at ``sent_at``.

    The calls that were in flight together are often refused together. They count once: a refused
    call from before the last halving has had its effect.
    """
    if sent_at < state.halved_at:
        return state
    return replace(state, limit=max(state.limit // 2, 1), answers=0, halved_at=now)


def seconds_to_wait(retry_after: str, unix_time: float) -> float:
    """What a Retry-After header asks for: seconds, or the time of a date; 0 if it says neither."""
    try:
        return max(0.0, float(retry_after))
    except ValueError:
        pass
    try:
        date = email.utils.parsedate_to_datetime(retry_after)
    except ValueError:
        return 0.0
    return max(0.0, date.timestamp() - unix_time)
