"""Any server that speaks the OpenAI chat completions protocol (the paper's own setting)."""

from __future__ import annotations

import asyncio
import math
import os
import time
import urllib.parse
from typing import TYPE_CHECKING, Any

from aloe.config import OpenAIModel
from aloe.engines.base import Completion, Request
from aloe.errors import EngineError, MalformedAnswer, UserError

if TYPE_CHECKING:
    from openai.types.chat import ChatCompletion

_TOP_LOGPROBS = 20  # the protocol's upper bound


class OpenAIEngine:
    """Calls one server, with at most ``max_concurrency`` calls in flight."""

    def __init__(self, name: str, model: OpenAIModel) -> None:
        from openai import AsyncOpenAI

        self._name, self._model = name, model
        self._slots = asyncio.Semaphore(model.max_concurrency)
        self._client = AsyncOpenAI(
            base_url=model.base_url, api_key=_key(model), timeout=model.timeout_s, max_retries=4
        )

    async def complete(self, request: Request) -> Completion:
        from openai import APIError

        async with self._slots:
            start = time.monotonic()
            try:
                answer = await self._client.chat.completions.create(**self._body(request))
            except APIError as error:
                raise EngineError(f"{self._name}: {type(error).__name__}: {error}") from error
        return self._read(answer, request, time.monotonic() - start)

    def _body(self, request: Request) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self._model.model,
            "messages": request.messages,
            "max_completion_tokens": request.max_tokens,
            "temperature": request.temperature,
            "top_p": request.top_p,
            "seed": request.seed,
        }
        if request.choices:
            body |= {
                "max_completion_tokens": 1,
                "temperature": 0,
                "logprobs": True,
                "top_logprobs": _TOP_LOGPROBS,
            }
        elif request.json_schema is not None:
            schema = {"name": "answer", "schema": dict(request.json_schema)}
            native = {"type": "json_schema", "json_schema": schema}
            body["response_format"] = (
                native if self._model.native_schema else {"type": "json_object"}
            )
        return body

    def _read(self, answer: ChatCompletion, request: Request, seconds: float) -> Completion:
        if not answer.choices:
            raise MalformedAnswer(f"{self._name}: the server sent no choice")
        choice, usage = answer.choices[0], answer.usage
        details = usage.prompt_tokens_details if usage else None
        logprobs: dict[str, float] = {}
        if request.choices:
            content = choice.logprobs.content if choice.logprobs else None
            top = content[0].top_logprobs if content else []
            logprobs = _choice_logprobs([(t.token, t.logprob) for t in top], request.choices)
            if not logprobs:
                raise MalformedAnswer(
                    f"{self._name}: none of {', '.join(request.choices)} among the likely answers"
                )
        return Completion(
            text=max(logprobs, key=logprobs.__getitem__)
            if logprobs
            else choice.message.content or "",
            model=self._name,
            finish_reason=choice.finish_reason,
            prompt_tokens=usage.prompt_tokens if usage else 0,
            cached_tokens=(details.cached_tokens or 0) if details else 0,
            completion_tokens=usage.completion_tokens if usage else 0,
            seconds=seconds,
            choice_logprobs=logprobs,
        )

    def close(self) -> None:
        return None  # its connections end with the process


def _choice_logprobs(top: list[tuple[str, float]], choices: tuple[str, ...]) -> dict[str, float]:
    """Log-probs among the choices, from the likeliest tokens; empty if none of them is a choice.

    A choice that is not among the likeliest tokens gets the least probability seen there, its
    upper bound.
    """
    mass = dict.fromkeys(choices, 0.0)
    for token, logprob in top:
        if token.strip() in mass:
            mass[token.strip()] += math.exp(logprob)
    if not any(mass.values()):
        return {}
    floor = math.exp(min(logprob for _, logprob in top))
    mass = {choice: value or floor for choice, value in mass.items()}
    total = sum(mass.values())
    return {choice: math.log(max(value, 1e-30) / total) for choice, value in mass.items()}


def check_server(model: OpenAIModel) -> None:
    """Ask the server for its models.

    Raises:
        UserError: no key in the environment, nobody answers, or the key is refused.
    """
    from openai import APIConnectionError, APIStatusError, OpenAI

    where = f"model at {model.base_url}"
    client = OpenAI(base_url=model.base_url, api_key=_key(model), timeout=3, max_retries=0)
    try:
        client.models.list()
    except APIConnectionError as error:
        raise UserError(f"{where}: cannot be reached ({error.__cause__ or error})") from error
    except APIStatusError as error:
        if error.status_code in (401, 403):
            raise UserError(f"{where}: refuses the key in {model.api_key_env}") from error
        # Some servers have no such route: they answer, which is all that is asked here.


def _key(model: OpenAIModel) -> str:
    key = os.environ.get(model.api_key_env)
    if key:
        return key
    host = urllib.parse.urlsplit(model.base_url).hostname or ""
    if host in ("127.0.0.1", "localhost", "::1"):
        return "none"  # servers on this machine rarely want one
    raise UserError(
        f"environment variable {model.api_key_env}: expected the key for {model.base_url}"
    )
