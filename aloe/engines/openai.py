"""Any server that speaks the OpenAI chat completions protocol (the paper's own setting)."""

from __future__ import annotations

import asyncio
import itertools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random_exponential

from aloe.chat import repaired
from aloe.config import OpenAIModel
from aloe.engines import backoff
from aloe.engines.base import Completion, Load, Request
from aloe.engines.gate import Gate
from aloe.engines.openai_access import headers_of, is_loopback, key_of
from aloe.engines.openai_answers import (
    Complained,
    NoAnswer,
    Said,
    choice_logprobs,
    estimated_tokens,
    read_answer,
    with_estimates,
)
from aloe.engines.openai_bodies import json_in
from aloe.engines.openai_faults import (
    Complaint,
    Verdict,
    complaint_in,
    doubtful,
    refused_parameter,
    verdict,
)
from aloe.engines.openai_parameters import (
    body_of,
    first_habits,
    learned,
    most_tokens,
    sent_parameters,
)
from aloe.engines.permits import Permits
from aloe.engines.price import cost_usd
from aloe.errors import ContextExceeded, EngineError, MalformedAnswer, WorldFault
from aloe.progress import say

if TYPE_CHECKING:
    from openai import APIStatusError

_LISTED_WITHIN_S = 10.0
_REACHED = {"ReadTimeout", "ReadError", "WriteTimeout", "WriteError", "RemoteProtocolError"}
"""What goes wrong where somebody was there, by the names of the client's transport."""
_EMPTY_ANSWERS = 5
"""Answers without a message after which a call is given up: it may be its prompt."""
_WELL_WITHIN = 0.25
"""Share of ``deadline_s`` within which other calls were answered where a server is well."""
_HELLO = Request([{"role": "user", "content": "Hello"}], max_tokens=16)
"""What anybody would be answered."""
_JITTER = wait_random_exponential(multiplier=0.5, max=30)
"""Seconds before the next attempt: anything up to 0.5, 1, 2, ... 30."""


class _Again(Exception):
    """An attempt failed, and the same call may be answered later."""

    def __init__(
        self, cause: str, busy: bool = False, retry_after: float = 0.0, items: bool = False
    ) -> None:
        super().__init__(cause)
        self.busy, self.retry_after, self.items = busy, retry_after, items


class _Doubt(Exception):
    """A refusal that nobody has words for: whose fault it is shows in whether others are answered.

    Attributes:
        items: what it is where they are.
        worlds: what it is where they are not.
        at: when it was met.
    """

    def __init__(self, items: EngineError, worlds: WorldFault) -> None:
        super().__init__(str(items))
        self.items, self.worlds, self.at = items, worlds, time.monotonic()


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
        self._greeting = asyncio.Lock()
        self._greeted_at = -math.inf
        self._unanswered: WorldFault | None = None
        self.habits = first_habits(model)
        """What the server takes, as far as it is known."""
        # Attempts and their time are counted here: the client's own timeout starts anew with each
        # byte that arrives.
        self._client = AsyncOpenAI(
            base_url=model.base_url,
            api_key=key_of(model),
            timeout=None,
            max_retries=0,
            default_headers=headers_of(model),
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
            WorldFault: nobody answers, or refuses even that.
            EngineError: somebody does, but not this.
        """
        try:
            await self._send(_Call(next(self._numbers)), _HELLO)
        except _Doubt as doubt:
            raise doubt.worlds from doubt.__cause__
        except _Again as cause:
            fault = WorldFault(f"{self._name}: {cause}", passes=True, after_s=cause.retry_after)
            raise fault from cause.__cause__

    def load(self) -> Load:
        return Load(self._gate.inside, self._gate.waiting, self._gate.bound.limit)

    def release(self, conversation: str) -> None:
        return None  # the server's cache is its own

    async def _attempt(self, call: _Call, request: Request) -> Said:
        """One attempt; a refusal that may be anybody's is settled by a greeting."""
        try:
            return await self._in_slot(call, request)
        except _Doubt as doubt:
            if (fault := await self._others_refused(doubt.at)) is None:
                raise doubt.items from doubt.__cause__
            if not fault.passes:
                raise fault from doubt.__cause__
            call.cause = _Again(str(fault), retry_after=fault.after_s)
            raise call.cause from fault

    async def _others_refused(self, since: float) -> WorldFault | None:
        """Why a greeting is not answered after ``since``; calls in doubt share one."""
        async with self._greeting:
            if self._greeted_at < since:
                at, self._unanswered = time.monotonic(), None
                try:
                    async with self._permits.permit(self._most_tokens(_HELLO)):
                        await self.look()
                except WorldFault as fault:
                    self._unanswered = fault
                except EngineError:
                    pass  # it is a filter's: somebody reads what is sent
                self._greeted_at = at
            return self._unanswered

    async def _in_slot(self, call: _Call, request: Request) -> Said:
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
            said = self._counted(said, request)
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
        told = f"{self._name}: {_told(error)}"
        # Not the server's words: they may repeat parts of the key.
        key = f"{self._name}: {self._model.base_url} refuses the key in {self._model.api_key_env}"
        judged = verdict(complaint, sent)
        worlds = WorldFault(key if judged is Verdict.KEY else _coded(told, complaint), passes=False)
        if doubtful(complaint, judged):
            raise _Doubt(EngineError(told), worlds) from error
        match judged:
            case Verdict.PARAMETER:
                name = refused_parameter(complaint, sent) or ""
                self._learn(name, complaint.message, request, body)
            case Verdict.AGAIN:
                busy = complaint.status in (429, 503)
                raise _Again(_told(error), busy, retry_after) from error
            case Verdict.TOO_LONG:
                raise ContextExceeded(told) from error
            case Verdict.ITEM:
                raise EngineError(told) from error
            case Verdict.KEY:
                raise worlds from None
            case Verdict.WORLD:
                raise worlds from error

    def _learn(self, name: str, message: str, request: Request, body: dict[str, Any]) -> None:
        """Leave out what was refused, unless another call has found out meanwhile."""
        if body != body_of(request, self._model, self.habits):
            return
        self.habits, told = learned(self.habits, name, body.get(name), message)
        say(
            f"{self._name}: the server does not take {name} ({message[:120]!r}): {told}",
            model=self._name,
            parameter=name,
        )

    def _most_tokens(self, request: Request) -> int:
        """Tokens that a call may take."""
        told = estimated_tokens(*(message["content"] for message in request.messages))
        return told + most_tokens(request, self._model)

    def _counted(self, said: Said, request: Request) -> Said:
        """The answer with estimates where the server does not count: limits hold all the same."""
        counted = with_estimates(said, request.messages)
        if counted is not said and self.habits.counts:
            self.habits = replace(self.habits, counts=False)
            say(
                f"{self._name}: the server does not tell how many tokens a call needs: they are "
                "estimated, and what they cost",
                model=self._name,
            )
        return counted

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


def _coded(told: str, complaint: Complaint) -> str:
    """A line with the server's code, which may be all that names the fault."""
    return told if complaint.code in told.lower() else f"{told} ({complaint.code})"


def _failures() -> tuple[type[Any], ...]:
    """What the client raises."""
    from openai import APIError

    return (APIError,)


def _body(error: APIStatusError) -> Any:
    """The body of a refusal: the client gives only its ``error`` where there is one."""
    return json_in(error.response.content)


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


def check_server(model: OpenAIModel) -> None:
    """Ask the server for its models.

    Raises:
        UserError: no key in the environment.
        WorldFault: nobody is there. Whether who is there answers shows in a chat, not in a list.
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
        api_key=key_of(model),
        timeout=_LISTED_WITHIN_S,
        max_retries=0,
        default_headers=headers_of(model),
        http_client=DefaultHttpxClient(trust_env=not is_loopback(model.base_url)),
    ) as client:
        try:
            body = json_in(client.get("/models", cast_to=httpx.Response).content)
        except APIConnectionError as error:
            if type(error.__cause__).__name__ in _REACHED:
                return []  # a list that takes long
            told = f"{where}: cannot be reached ({error.__cause__ or error})"
            raise WorldFault(told, passes=True) from error
        except APIStatusError:
            return []  # no such route, or not with this key: a chat may be answered all the same
    listed = body.get("data") if isinstance(body, dict) else body
    entries = listed if isinstance(listed, list) else []
    found = [entry["id"] for entry in entries if isinstance(entry, dict) and entry.get("id")]
    return [repaired(str(name))[0] for name in found]
