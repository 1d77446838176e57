"""Any server that speaks the OpenAI chat completions protocol (the paper's own setting)."""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import os
import time
import urllib.parse
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, wait_random_exponential

from aloe.config import OpenAIModel
from aloe.engines import backoff
from aloe.engines.base import Completion, Load, Request
from aloe.engines.gate import Gate
from aloe.engines.price import cost_usd
from aloe.errors import ContextExceeded, EngineError, MalformedAnswer, UserError, WorldFault

if TYPE_CHECKING:
    from openai.types.chat import ChatCompletion

_TOP_LOGPROBS = 20  # the protocol's upper bound
_BUSY = (429, 503)
_JITTER = wait_random_exponential(multiplier=0.5, max=30)
"""Seconds before the next attempt: anything up to 0.5, 1, 2, ... 30."""


@dataclass
class _Call:
    """One call over all its attempts."""

    number: int
    begun_at: float = math.inf
    """When the first attempt was sent: time in the queue before it is not the server's."""
    cause: Exception | None = None
    """Why the last attempt failed."""


class OpenAIEngine:
    """Calls one server, with at most ``max_concurrency`` calls in flight.

    While the server says that it is busy there are fewer, see `aloe.engines.backoff`.
    """

    def __init__(self, name: str, model: OpenAIModel) -> None:
        from openai import AsyncOpenAI, DefaultAsyncHttpxClient

        self._name, self._model = name, model
        self._gate = Gate(backoff.begin(model.max_concurrency))
        self._numbers = itertools.count()
        # Attempts and their time are counted here: the client's own timeout starts anew with each
        # byte that arrives.
        self._client = AsyncOpenAI(
            base_url=model.base_url,
            api_key=_key(model),
            timeout=None,
            max_retries=0,
            # The one it makes itself closes in whatever event loop runs when it is collected.
            http_client=DefaultAsyncHttpxClient(),
        )

    async def complete(self, request: Request) -> Completion:
        """See `aloe.engines.Engine`.

        ``choice_logprobs`` is empty where no choice is among the likeliest answers: such an answer
        is paid for too, and counts.
        """
        call = _Call(next(self._numbers))
        attempts = AsyncRetrying(
            retry=retry_if_exception(_may_pass),
            wait=_pause,
            stop=lambda state: self._too_late(call, time.monotonic() + state.upcoming_sleep),
            reraise=True,
        )
        try:
            answer: ChatCompletion = await attempts(self._attempt, call, self._body(request))
        except _failures() as error:
            if getattr(error, "status_code", None) in (401, 403):
                # Not the server's words: they may repeat parts of the key.
                raise WorldFault(
                    f"{self._name}: {self._model.base_url} refuses the key in "
                    f"{self._model.api_key_env}",
                    passes=False,
                ) from None
            if getattr(error, "code", None) == "insufficient_quota":
                raise WorldFault(self._message(call, error), passes=False) from error
            if _may_pass(error):  # for as long as deadline_s allows
                raise WorldFault(self._message(call, error), passes=True) from error
            if getattr(error, "code", None) == "context_length_exceeded":
                raise ContextExceeded(self._message(call, error)) from error
            raise EngineError(self._message(call, error)) from error
        return self._read(answer, request, time.monotonic() - call.begun_at)

    def load(self) -> Load:
        return Load(self._gate.inside, self._gate.waiting, self._gate.bound.limit)

    def release(self, conversation: str) -> None:
        return None  # the server's cache is its own

    async def _attempt(self, call: _Call, body: dict[str, Any]) -> ChatCompletion:
        """Wait for a slot, send, and keep what the outcome says about the server."""
        gate = self._gate
        async with gate.slot(call.number):
            sent_at = time.monotonic()
            if call.cause and self._too_late(call, sent_at):
                raise call.cause  # the wait for a slot took what was left
            call.begun_at = min(call.begun_at, sent_at)
            try:
                async with asyncio.timeout(self._model.timeout_s):
                    answer = await self._client.chat.completions.create(**body)
            except _failures() as error:
                call.cause = error
                if isinstance(error, TimeoutError) or getattr(error, "status_code", 0) in _BUSY:
                    gate.bound = backoff.busy(gate.bound, sent_at, time.monotonic())
                raise
            gate.bound = backoff.answered(gate.bound, sent_at, gate.inside)
            return answer

    def _too_late(self, call: _Call, at: float) -> bool:
        return at - call.begun_at >= self._model.deadline_s

    def _message(self, call: _Call, error: Exception) -> str:
        cause = f"{type(error).__name__}: {error}"
        if isinstance(error, TimeoutError):
            cause = f"no answer within timeout_s {self._model.timeout_s:g}"
        elif error.__cause__:
            cause += f" ({error.__cause__})"
        if not _may_pass(error):
            return f"{self._name}: {cause}"
        spent = time.monotonic() - call.begun_at
        limit = f"deadline_s {self._model.deadline_s:g}"
        return f"{self._name}: given up after {spent:.1f} s ({limit}); last cause: {cause}"

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
        if not getattr(answer, "choices", None):  # a proxy's HTML page is no completion either
            raise MalformedAnswer(f"{self._name}: the server sent no choice")
        choice, usage = answer.choices[0], answer.usage
        details = usage.prompt_tokens_details if usage else None
        prompt_tokens = usage.prompt_tokens if usage else 0
        cached_tokens = (details.cached_tokens or 0) if details else 0
        completion_tokens = usage.completion_tokens if usage else 0
        logprobs: dict[str, float] = {}
        if request.choices:
            content = choice.logprobs.content if choice.logprobs else None
            top = content[0].top_logprobs if content else []
            logprobs = _choice_logprobs([(t.token, t.logprob) for t in top], request.choices)
        return Completion(
            text=max(logprobs, key=logprobs.__getitem__)
            if logprobs
            else choice.message.content or "",
            model=self._name,
            finish_reason=choice.finish_reason,
            prompt_tokens=prompt_tokens,
            cached_tokens=cached_tokens,
            completion_tokens=completion_tokens,
            seconds=seconds,
            cost_usd=cost_usd(self._model.price, prompt_tokens, cached_tokens, completion_tokens),
            choice_logprobs=logprobs,
        )

    def close(self) -> None:
        return None  # its connections end with the process


def _failures() -> tuple[type[Exception], ...]:
    """What an attempt may raise; the client lets a broken JSON body through as it is."""
    from openai import APIError

    return APIError, TimeoutError, json.JSONDecodeError


def _may_pass(error: BaseException) -> bool:
    """Whether the same call may be answered later."""
    from openai import APIConnectionError, APIStatusError

    if isinstance(error, APIStatusError):
        spent = error.code == "insufficient_quota"  # sent with 429, but waiting does not pay
        return (error.status_code == 429 and not spent) or error.status_code >= 500
    return isinstance(error, APIConnectionError | TimeoutError)


def _pause(state: RetryCallState) -> float:
    """Seconds until the next attempt: never less than the server asks for, and never all at once.

    The jitter is added to what the server asks for, as it asks the same of every call.
    """
    error = state.outcome.exception() if state.outcome else None
    response = getattr(error, "response", None)
    asked = response.headers.get("retry-after", "") if response is not None else ""
    return backoff.seconds_to_wait(asked, time.time()) + _JITTER(state)


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
