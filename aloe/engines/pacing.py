"""When a model's next call may begin: a state machine without clock, connections or waiting.

Calls are spaced evenly, as servers divide a limit per minute into smaller ones. A call counts with
the tokens that it may need when it begins, and with those that it needed when it ends. Times are
seconds of any one monotonic clock.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

_MINUTE = 60.0


@dataclass(frozen=True)
class Pace:
    """State: who is inside, and when others may come."""

    most: int
    """Calls inside at once at most."""
    expires_s: float
    """Seconds after which a call no longer counts as inside: whoever made it is gone."""
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    inside: dict[int, float] = field(default_factory=dict)
    """Call -> when it no longer counts."""
    requests_from: float = -math.inf
    """When the limit of requests lets the next one begin."""
    tokens_from: float = -math.inf
    """When the limit of tokens lets the next one begin."""
    quiet_until: float = -math.inf
    """The server asked for no call before."""


def earliest(pace: Pace, now: float) -> float:
    """When the next call may begin if none ends before; `now` if it may at once."""
    at = max(now, pace.requests_from, pace.tokens_from, pace.quiet_until)
    ends = sorted(pace.inside.values())
    if len(ends) >= pace.most:
        at = max(at, ends[len(ends) - pace.most])
    return at


def begun(pace: Pace, call: int, tokens: int, now: float) -> Pace:
    """The state after a call began; `earliest` must have allowed it.

    Args:
        tokens: those that it may need in all.
    """
    inside = {other: end for other, end in pace.inside.items() if end > now}
    return replace(
        pace,
        inside=inside | {call: now + pace.expires_s},
        requests_from=max(pace.requests_from, now) + _share(1, pace.requests_per_minute),
        tokens_from=max(pace.tokens_from, now) + _share(tokens, pace.tokens_per_minute),
    )


def ended(pace: Pace, call: int, tokens: int, spent: int) -> Pace:
    """The state after a call ended.

    Args:
        tokens: those that it began with.
        spent: those that it needed.
    """
    return replace(
        pace,
        inside={other: end for other, end in pace.inside.items() if other != call},
        tokens_from=pace.tokens_from + _share(spent - tokens, pace.tokens_per_minute),
    )


def quiet(pace: Pace, until: float) -> Pace:
    """The state after the server asked to be left alone."""
    return replace(pace, quiet_until=max(pace.quiet_until, until))


def _share(count: int, per_minute: float | None) -> float:
    """Seconds of the limit that this many take."""
    return _MINUTE * count / per_minute if per_minute else 0.0
