"""Signs of a policy that games its reward, and what is done about them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from aloe.config import GuardsConfig
from aloe.errors import StageFailed
from aloe.progress import say
from aloe.verifiable.words import words

_TELLING = 5
"""Letters from which on a word counts as one that says something."""
_LOW = {"entropy"}
"""Guards whose small values are the bad ones."""


def repetition(replies: Sequence[str]) -> float:
    """Share of an episode's word trigrams that stood before in its replies, in [0, 1]."""
    seen: set[tuple[str, ...]] = set()
    total = 0
    for reply in replies:
        said = words(reply)
        trigrams = list(zip(said, said[1:], said[2:], strict=False))
        total += len(trigrams)
        seen.update(trigrams)
    return 1 - len(seen) / total if total else 0.0


def parroting(replies: Sequence[str], persona: Mapping[str, Any]) -> float:
    """Share of the replies' telling words that stand in the persona, in [0, 1].

    Args:
        persona: with profile and personality.
    """
    own = set(words(f"{persona['profile']} {persona['personality']}"))
    telling = [word for reply in replies for word in words(reply) if len(word) >= _TELLING]
    return sum(word in own for word in telling) / len(telling) if telling else 0.0


def check(values: Mapping[str, float], guards: GuardsConfig, step: int) -> None:
    """Warn of values beyond their limits.

    Args:
        values: some of the guards' names, and others.

    Raises:
        StageFailed: a value is beyond its limit to stop.
    """
    for name in type(guards).model_fields:
        if name not in values:
            continue
        limit, value = getattr(guards, name), values[name]
        sign = -1 if name in _LOW else 1
        what = f"ppo: update {step}: {name} is {value:.4g}"
        if limit.stop is not None and sign * (value - limit.stop) > 0:
            raise StageFailed(f"{what}, beyond training.ppo.guards.{name}.stop = {limit.stop:g}")
        if limit.warn is not None and sign * (value - limit.warn) > 0:
            say(f"{what}, beyond training.ppo.guards.{name}.warn = {limit.warn:g}", guard=name)


def check_sync(difference: float, limit: float, step: int) -> None:
    """Stop where the engines speak with other weights than those that are trained.

    Args:
        difference: KL divergence between trainer and engine after a sync, nats a token.

    Raises:
        StageFailed: it is beyond ``limit``.
    """
    if not difference <= limit:  # also where it is no number
        raise StageFailed(
            f"ppo: update {step}: engine and trainer differ by {difference:.3g} nats a token after "
            f"the sync, beyond training.ppo.sync_limit = {limit:g}"
        )
