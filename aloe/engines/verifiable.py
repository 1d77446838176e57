"""A speaker without a model: what a program judges, or has decided to say."""

from __future__ import annotations

import math

from aloe.config import VerifiableModel
from aloe.engines.base import Completion, Load, Request
from aloe.errors import MalformedAnswer

_CAPACITY = 64


class VerifiableEngine:
    """Turns `Request.met` into probabilities of the choices, and says `Request.said`.

    Of two replies the one that meets more is preferred for sure; equal ones are 1/2 each. A rating
    has the expectation 1 + 4 x share on the scale 1..5.
    """

    def __init__(self, name: str, _: VerifiableModel) -> None:
        self._name = name

    async def complete(self, request: Request) -> Completion:
        if not request.choices and request.said:
            return self._completion(request.said)
        if not request.choices or not request.met:
            raise MalformedAnswer(
                f"{self._name}: a verifiable model only judges, and plays whom a program plans"
            )
        weights = _preferred(*request.met) if len(request.met) == 2 else _rated(request)
        logprobs = {
            choice: math.log(weight) if weight else -math.inf
            for choice, weight in zip(request.choices, weights, strict=True)
        }
        return self._completion(max(logprobs, key=logprobs.__getitem__), logprobs)

    def _completion(self, text: str, logprobs: dict[str, float] | None = None) -> Completion:
        return Completion(
            text=text,
            model=self._name,
            finish_reason="stop",
            prompt_tokens=0,
            cached_tokens=0,
            completion_tokens=0,
            seconds=0.0,
            choice_logprobs=logprobs or {},
        )

    def load(self) -> Load:
        return Load(0, 0, _CAPACITY)

    def release(self, conversation: str) -> None:
        return None

    def close(self) -> None:
        return None


def _preferred(first: float, second: float) -> list[float]:
    if first == second:
        return [0.5, 0.5]
    return [1.0, 0.0] if first > second else [0.0, 1.0]


def _rated(request: Request) -> list[float]:
    """The two ratings around the share, weighted so that their mean is the share."""
    highest = len(request.choices) - 1
    place = request.met[0] * highest
    below = min(int(place), highest - 1)
    return [
        max(0.0, 1 - abs(place - rating)) if rating in (below, below + 1) else 0.0
        for rating in range(highest + 1)
    ]
