"""A speaker without a model: the answer is a function of the request alone."""

from __future__ import annotations

import asyncio
import json
import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

from aloe.config import ScriptedModel
from aloe.engines.base import Completion, Load, Request
from aloe.engines.price import cost_usd
from aloe.engines.stepping import StepClock
from aloe.schema import derive_seed

_WORDS = [
    "garden",
    "river",
    "lamp",
    "quiet",
    "morning",
    "paper",
    "bridge",
    "copper",
    "window",
    "story",
    "market",
    "winter",
    "orange",
    "signal",
    "harbor",
    "pepper",
    "violin",
    "ladder",
    "meadow",
    "engine",
    "pocket",
    "silver",
    "thunder",
    "basket",
    "candle",
    "forest",
    "mirror",
]


class ScriptedEngine:
    """Answers with words drawn from a seed that hashes the whole request."""

    def __init__(self, name: str, model: ScriptedModel) -> None:
        self._name, self._model = name, model
        self._clock = StepClock(model.step_s, model.step_s_per_sequence, model.max_num_seqs)
        self._steps_take_time = model.step_s > 0 or model.step_s_per_sequence > 0
        self._in_flight = 0

    async def complete(self, request: Request) -> Completion:
        answer = self._answer(request)
        self._in_flight += 1
        try:
            if self._model.latency_s:
                await asyncio.sleep(self._model.latency_s)
            if self._steps_take_time:
                await self._clock.take(answer.completion_tokens)
        finally:
            self._in_flight -= 1
        return answer

    def _answer(self, request: Request) -> Completion:
        rng = random.Random(derive_seed(request.messages, request.seed, request.choices))
        logprobs: dict[str, float] = {}
        if request.choices:
            weights = [rng.random() + 0.01 for _ in request.choices]
            logprobs = {
                choice: math.log(weight / sum(weights))
                for choice, weight in zip(request.choices, weights, strict=True)
            }
            text = max(logprobs, key=logprobs.__getitem__)
        elif request.json_schema is not None:
            text = json.dumps(
                _example(request.json_schema, rng, self._model.says), ensure_ascii=False
            )
        else:
            text = _sentence(rng, rng.randint(5, 12), self._model.says)
        prompt_tokens = sum(len(message["content"].split()) for message in request.messages)
        completion_tokens = len(text.split())
        return Completion(
            text=text,
            model=self._name,
            finish_reason="stop",
            prompt_tokens=prompt_tokens,
            cached_tokens=0,
            completion_tokens=completion_tokens,
            # A script's clock is its own, as if it were alone: real time differs from run to run.
            seconds=self._model.latency_s
            + completion_tokens * (self._model.step_s + self._model.step_s_per_sequence),
            cost_usd=cost_usd(self._model.price, prompt_tokens, 0, completion_tokens),
            choice_logprobs=logprobs,
        )

    def load(self) -> Load:
        if self._steps_take_time:
            return Load(self._clock.running, self._clock.waiting, self._model.max_num_seqs)
        return Load(self._in_flight, 0, self._model.max_num_seqs)

    def release(self, conversation: str) -> None:
        return None

    def close(self) -> None:
        return None


def _sentence(rng: random.Random, words: int, says: Sequence[str]) -> str:
    if says:
        return rng.choice(says)
    return " ".join(rng.choice(_WORDS) for _ in range(words)).capitalize() + "."


def _example(schema: Mapping[str, Any], rng: random.Random, says: Sequence[str]) -> Any:
    """A value that fits the part of JSON Schema that this project's prompts use."""
    if "enum" in schema:
        return rng.choice(schema["enum"])
    match schema.get("type"):
        case "object":
            return {key: _example(part, rng, says) for key, part in schema["properties"].items()}
        case "array" if "prefixItems" in schema:
            return [_example(part, rng, says) for part in schema["prefixItems"]]
        case "array":
            low = schema.get("minItems", 0)
            count = rng.randint(low, schema.get("maxItems", low + 2))
            return [_example(schema["items"], rng, says) for _ in range(count)]
        case "integer":
            return rng.randint(schema.get("minimum", 0), schema.get("maximum", 99))
        case "string":
            return _sentence(rng, 4, says)[: schema.get("maxLength", 80)].strip()
        case kind:
            raise ValueError(f"the scripted engine cannot answer a JSON schema of type {kind!r}")
