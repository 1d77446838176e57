"""Any server that speaks the OpenAI chat completions protocol (the paper's own setting)."""

from __future__ import annotations

import asyncio
import ipaddress
import itertools
import math
import os
import time
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random_exponential

from aloe.chat import repaired
from aloe.config import OpenAIModel
from aloe.engines import backoff
from aloe.engines.base import Completion, Load, Request
from aloe.engines.gate import Gate
from aloe.engines.openai_answers import Complained, NoAnswer, Said, read_answer
from aloe.engines.openai_faults import Complaint, Verdict, complaint_in, refused_parameter, verdict
from aloe.engines.openai_parameters import (
    body_of,
    first_habits,
    learned,
    most_tokens,
    sent_parameters,
)
from aloe.engines.permits import Permits
from aloe.engines.price import cost_usd
from aloe.errors import ContextExceeded, EngineError, MalformedAnswer, UserError, WorldFault
from aloe.progress import say

if TYPE_CHECKING:
    from openai import APIStatusError

_LISTED_WITHIN_S = 10.0
_EMPTY_ANSWERS = 5
"""Answers without a message after which a call is given up: it may be its prompt."""
_WELL_WITHIN = 0.25
"""Share of ``deadline_s`` within which other calls were answered where a server is well."""
_CHARACTERS_PER_TOKEN = 4
_JITTER = wait_random_exponential(multiplier=0.5, max=30)
"""Seconds before the next attempt: anything up to 0.5, 1, 2, ... 30."""


class _Again(Exception):
    """An attempt failed, and the same call may be answered later."""

    def __init__(
        self, cause: str, busy: bool = False, retry_after: float = 0.0, items: bool = False
    ) -> None:
        super().__init__(cause)
        self.busy, self.retry_after, self.items = busy, retry_after, items


@dataclass
class _Call:
    """One call over all its attempts."""

    number: int
    begun_at: float = math.inf
    """When the first attempt was sent: time in the queue before it is not the server's."""
    empty: int = 0
    """Attempts that brought an answer without a message."""
    cause: _Again | None = None
    """Why the last attempt failed."""


class OpenAIEngine:
    """Calls one server, with at most ``max_concurrency`` calls in flight.

    While the server says that it is busy there are fewer, see `aloe.engines.backoff`. What it does
    not take is left out from then on, see `aloe.engines.openai_parameters`.
    """

    def __init__(
        self,
        name: str,
        model: OpenAIModel,
        most_requests: float = math.inf,
        trouble: Callable[[str], None] | None = None,
    ) -> None:
        """Connect to nothing yet.

        Args:
            most_requests: no more are sent in all, whatever they are for.
            trouble: hears of each attempt that was not answered, while its call goes on.
        """
        from openai import AsyncOpenAI, DefaultAsyncHttpxClient

        self._name, self._model = name, model
        self._gate = Gate(backoff.begin(model.max_concurrency))
        self._permits = Permits(model)
        self._numbers = itertools.count()
        self._most_requests, self.requests = most_requests, 0
        self._answered_at = -math.inf
        self._trouble = trouble or (lambda reason: None)
        self.habits = first_habits(model)
        """What the server takes, as far as it is known."""
        # Attempts and their time are counted here: the client's own timeout starts anew with each
        # byte that arrives.
        self._client = AsyncOpenAI(
            base_url=model.base_url,
            api_key=_key(model),
            timeout=None,
            max_retries=0,
            default_headers=_headers(model),
            # The one it makes itself closes in whatever event loop runs when it is collected.
            http_client=DefaultAsyncHttpxClient(trust_env=not is_loopback(model.base_url)),
        )

    async def complete(self, request: Request) -> Completion:
        """See `aloe.engines.Engine`.

        ``choice_logprobs`` is empty where no choice is among the likeliest answers: such an answer
        is paid for too, and counts.

        Raises:
            EngineError: this call cannot be answered; others can.
            WorldFault: no call can be answered, for now or for good.
        """
        if request.choices and "logprobs" in self.habits.without:
            return self._unasked()
        call = _Call(next(self._numbers))
        attempts = AsyncRetrying(
            retry=retry_if_exception_type(_Again),
            wait=_pause,
            stop=lambda state: self._too_late(call, time.monotonic() + state.upcoming_sleep),
            reraise=True,
        )
        try:
            said: Said = await attempts(self._attempt, call, request)
        except _Again as cause:
            raise self._given_up(call, cause) from cause.__cause__
        return self._completion(said, request, time.monotonic() - call.begun_at)

    async def look(self) -> None:
        """Ask for one word, once: whether anybody is there.

        Raises:
            WorldFault: nobody answers.
            EngineError: somebody does, but not this.
        """
        hello = Request([{"role": "user", "content": "Hello"}], max_tokens=16)
        try:
            await self._send(_Call(next(self._numbers)), hello)
        except _Again as cause:
            fault = WorldFault(f"{self._name}: {cause}", passes=True, after_s=cause.retry_after)
            raise fault from cause.__cause__

    def load(self) -> Load:
        return Load(self._gate.inside, self._gate.waiting, self._gate.bound.limit)

    def release(self, conversation: str) -> None:
        return None  # the server's cache is its own

    async def _attempt(self, call: _Call, request: Request) -> Said:
        """Wait for a slot, send, and keep what the outcome says about the server."""
        gate = self._gate
        async with (
            gate.slot(call.number),
            self._permits.permit(self._most_tokens(request)) as permit,
        ):
            sent_at = time.monotonic()
            if call.cause and self._too_late(call, sent_at):
                raise call.cause  # the wait for a slot took what was left
            call.begun_at = min(call.begun_at, sent_at)
            try:
                said = await self._send(call, request)
            except _Again as cause:
                call.cause = cause
                if not cause.items:
                    self._trouble(f"{self._name}: {cause}")
                if cause.busy:
                    gate.bound = backoff.busy(gate.bound, sent_at, time.monotonic())
                if 0 < cause.retry_after < self._model.deadline_s:
                    await self._permits.hush(cause.retry_after)
                raise
            permit.spent = said.prompt_tokens + said.completion_tokens
            gate.bound = backoff.answered(gate.bound, sent_at, gate.inside)
            self._answered_at = time.monotonic()
            return said

    async def _send(self, call: _Call, request: Request) -> Said:
        """One attempt; it is sent anew, a few times, without what the server does not take."""
        while True:
            body = body_of(request, self._model, self.habits)
            try:
                async with asyncio.timeout(self._model.timeout_s):
                    return read_answer(await self._post(body))
            except TimeoutError:
                limit = f"no answer within timeout_s {self._model.timeout_s:g}"
                raise _Again(limit, busy=True) from None
            except NoAnswer as none:
                call.empty += none.items
                if call.empty >= _EMPTY_ANSWERS:
                    raise MalformedAnswer(f"{self._name}: {none}") from none
                raise _Again(str(none), items=none.items) from none
            except Complained as error:
                self._judge(error, error.complaint, request, body)
            except _failures() as error:
                status = getattr(error, "status_code", None)
                if status is None:
                    raise _Again(_told(error)) from error
                asked = error.response.headers.get("retry-after", "")
                wait = backoff.seconds_to_wait(asked, time.time())
                complaint = complaint_in(status, _body(error))
                self._judge(error, complaint, request, body, wait)

    async def _post(self, body: dict[str, Any]) -> bytes:
        import httpx

        if self.requests >= self._most_requests:
            raise WorldFault(
                f"{self._name}: no answer that can be used in {self.requests} requests", passes=True
            )
        self.requests += 1
        response = await self._client.post("/chat/completions", body=body, cast_to=httpx.Response)
        return response.content

    def _judge(
        self,
        error: Exception,
        complaint: Complaint,
        request: Request,
        body: dict[str, Any],
        retry_after: float = 0.0,
    ) -> None:
        """Raise what a refusal is; return where another body may be taken."""
        sent = sent_parameters(body, self._model)
        match verdict(complaint, sent):
            case Verdict.PARAMETER:
                name = refused_parameter(complaint, sent) or ""
                self._learn(name, complaint.message, request, body)
            case Verdict.AGAIN:
                busy = complaint.status in (429, 503)
                raise _Again(_told(error), busy, retry_after) from error
            case Verdict.TOO_LONG:
                raise ContextExceeded(f"{self._name}: {_told(error)}") from error
            case Verdict.ITEM:
                raise EngineError(f"{self._name}: {_told(error)}") from error
            case Verdict.KEY:
                # Not the server's words: they may repeat parts of the key.
                raise WorldFault(
                    f"{self._name}: {self._model.base_url} refuses the key in "
                    f"{self._model.api_key_env}",
                    passes=False,
                ) from None
            case Verdict.WORLD:
                raise WorldFault(f"{self._name}: {_told(error)}", passes=False) from error

    def _learn(self, name: str, message: str, request: Request, body: dict[str, Any]) -> None:
        """Leave out what was refused, unless another call has found out meanwhile."""
        if body != body_of(request, self._model, self.habits):
            return
        self.habits, told = learned(self.habits, name)
        say(
            f"{self._name}: the server does not take {name} ({message[:120]!r}): {told}",
            model=self._name,
            parameter=name,
        )

    def _most_tokens(self, request: Request) -> int:
        characters = sum(len(message["content"]) for message in request.messages)
        return characters // _CHARACTERS_PER_TOKEN + most_tokens(request, self._model)

    def _too_late(self, call: _Call, at: float) -> bool:
        return at - call.begun_at >= self._model.deadline_s

    def _given_up(self, call: _Call, cause: _Again) -> Exception:
        """The fault of a call whose time is up: the item's where others are answered."""
        now = time.monotonic()
        message = (
            f"{self._name}: given up after {now - call.begun_at:.1f} s "
            f"(deadline_s {self._model.deadline_s:g}); last cause: {cause}"
        )
        well = now - self._answered_at < _WELL_WITHIN * self._model.deadline_s
        if well and not cause.busy:
            return EngineError(message)
        return WorldFault(message, passes=True, after_s=cause.retry_after)

    def _unasked(self) -> Completion:
        """What a choice comes to where the server gives no log-probs: no call is made."""
        return Completion("", self._name, "stop", 0, 0, 0, 0.0, with_logprobs=False)

    def _completion(self, said: Said, request: Request, seconds: float) -> Completion:
        logprobs: dict[str, float] = {}
        text, end = _cut(said.text, said.finish_reason, request.stop)
        if request.choices and said.top is not None:
            logprobs = choice_logprobs(said.top, request.choices)
        spent = (said.prompt_tokens, said.cached_tokens, said.completion_tokens)
        return Completion(
            text=max(logprobs, key=logprobs.__getitem__) if logprobs else text,
            model=self._name,
            finish_reason=end,
            prompt_tokens=said.prompt_tokens,
            cached_tokens=said.cached_tokens,
            completion_tokens=said.completion_tokens,
            seconds=seconds,
            cost_usd=cost_usd(self._model.price, *spent),
            choice_logprobs=logprobs,
            with_logprobs=said.top is not None,
            reasoning=said.reasoning,
            replaced=said.replaced,
        )

    def close(self) -> None:
        return None  # its connections end with the process


def _cut(text: str, end: str, stop: tuple[str, ...]) -> tuple[str, str]:
    """The text before the first of ``stop``: not every server applies it, or takes it away."""
    places = [place for word in stop if (place := text.find(word)) >= 0]
    return (text[: min(places)], "stop_text") if places else (text, end)


def _failures() -> tuple[type[Any], ...]:
    """What the client raises."""
    from openai import APIError

    return (APIError,)


def _body(error: APIStatusError) -> Any:
    """The body of a refusal: the client gives only its ``error`` where there is one."""
    return error.body if error.body is not None else error.response.text


def _told(error: Exception) -> str:
    cause = f"{type(error).__name__}: {error}"
    return repaired(f"{cause} ({error.__cause__})" if error.__cause__ else cause)[0]


def _pause(state: RetryCallState) -> float:
    """Seconds until the next attempt: never less than the server asks for, and never all at once.

    The jitter is added to what the server asks for, as it asks the same of every call.
    """
    error = state.outcome.exception() if state.outcome else None
    asked = error.retry_after if isinstance(error, _Again) else 0.0
    return asked + _JITTER(state)


def choice_logprobs(
    top: tuple[tuple[str, float], ...], choices: tuple[str, ...]
) -> dict[str, float]:
    """Log-probs among the choices, from the likeliest tokens; empty if none of them is a choice.

    A choice that is not among the likeliest tokens has at most the least probability seen there,
    and at most an even share of what all of them leave over.
    """
    mass = dict.fromkeys(choices, 0.0)
    for token, logprob in top:
        if token.strip() in mass:
            mass[token.strip()] += math.exp(logprob)
    missing = [choice for choice, value in mass.items() if not value]
    if len(missing) == len(mass):
        return {}
    seen = [math.exp(logprob) for _, logprob in top]
    left_over = max(0.0, 1.0 - sum(seen))
    for choice in missing:
        mass[choice] = min(min(seen), left_over / len(missing))
    total = sum(mass.values())
    return {choice: math.log(max(value, 1e-30) / total) for choice, value in mass.items()}


def check_server(model: OpenAIModel) -> None:
    """Ask the server for its models.

    Raises:
        UserError: no key in the environment, or it is refused.
        WorldFault: nobody answers.
    """
    list_models(model)


def list_models(model: OpenAIModel) -> list[str]:
    """Names of the server's models; empty where it does not tell them.

    Raises:
        UserError: see `check_server`.
    """
    import httpx
    from openai import APIConnectionError, APIStatusError, DefaultHttpxClient, OpenAI

    where = f"model at {model.base_url}"
    with OpenAI(
        base_url=model.base_url,
        api_key=_key(model),
        timeout=_LISTED_WITHIN_S,
        max_retries=0,
        default_headers=_headers(model),
        http_client=DefaultHttpxClient(trust_env=not is_loopback(model.base_url)),
    ) as client:
        try:
            body = client.get("/models", cast_to=httpx.Response).json()
        except APIConnectionError as error:
            told = f"{where}: cannot be reached ({error.__cause__ or error})"
            raise WorldFault(told, passes=True) from error
        except APIStatusError as error:
            if error.status_code in (401, 403):
                raise UserError(f"{where}: refuses the key in {model.api_key_env}") from error
            return []  # some servers have no such route: they answer, which is all that is asked
        except ValueError:
            return []
    listed = body.get("data") if isinstance(body, dict) else body
    entries = listed if isinstance(listed, list) else []
    found = [entry["id"] for entry in entries if isinstance(entry, dict) and entry.get("id")]
    return [repaired(str(name))[0] for name in found]


def is_loopback(url: str) -> bool:
    """Whether a server is on this machine: no proxy stands between, whatever the environment."""
    host = (urllib.parse.urlsplit(url).hostname or "").lower()
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _key(model: OpenAIModel) -> str:
    key = os.environ.get(model.api_key_env)
    if key:
        return key
    if is_loopback(model.base_url):
        return "none"  # servers on this machine rarely want one
    raise UserError(
        f"environment variable {model.api_key_env}: expected the key for {model.base_url}"
    )


def _headers(model: OpenAIModel) -> dict[str, str]:
    """``extra_headers``, with values from the environment."""
    found = {}
    for name, value in model.extra_headers.items():
        found[name] = os.environ.get(value[1:], "") if value.startswith("$") else value
        if not found[name]:
            raise UserError(
                f"environment variable {value[1:]}: expected the header {name} for {model.base_url}"
            )
    return found
