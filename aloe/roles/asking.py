"""One call with tries: ask, read the answer, ask again with another seed if it cannot be read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from tenacity import AsyncRetrying, RetryError, retry_if_exception, stop_after_attempt

from aloe.engines import Completion, Engine, Request
from aloe.engines.wrapper import Wrapper
from aloe.errors import CallFailed, EngineError, Hopeless, MalformedAnswer, ThoughtOnly
from aloe.schema import USAGE_FIELDS, derive_seed

T = TypeVar("T")

_SECOND_TEMPERATURE = 0.7


@dataclass(frozen=True)
class Answer(Generic[T]):
    """What was understood, and what it cost (a row of `aloe.schema.CALL`)."""

    value: T
    call: dict[str, Any]
    reasoning: str = ""
    """What was thought before it was said."""

    @property
    def ended(self) -> bool:
        """Whether the speaker ended its turn itself."""
        return bool(self.call["finish_reason"] == "stop")


class _Within(Wrapper[Engine]):
    """An engine whose calls all belong to one conversation."""

    def __init__(self, engine: Engine, conversation: str) -> None:
        super().__init__(engine)
        self._conversation = conversation

    async def complete(self, request: Request) -> Completion:
        return await self._engine.complete(replace(request, conversation=self._conversation))


def within(engines: Mapping[str, Engine], conversation: str) -> dict[str, Engine]:
    """The same engines by role, for the calls of one tree or case (`Request.conversation`)."""
    return {role: _Within(engine, conversation) for role, engine in engines.items()}


async def ask(
    engine: Engine,
    role: str,
    request: Request,
    read: Callable[[Completion], T],
    tries: int,
    seed: int,
) -> Answer[T]:
    """Ask until ``read`` understands the answer.

    Args:
        role: who speaks; goes into the record and the seed.
        read: turns a completion into a value, raises MalformedAnswer if it cannot.
        tries: calls at most (paper: 3).
        seed: seed of this place in the conversation; each try derives its own from it.

    Raises:
        CallFailed: no try was understood. Carries the tokens spent.
        WorldFault: no try can be; it counts as none.
    """
    call = unanswered(role)
    try:
        async for attempt in AsyncRetrying(
            stop=stop_after_attempt(tries), retry=retry_if_exception(_worth_another_try)
        ):
            with attempt:
                call["tries"] += 1
                completion = await engine.complete(
                    _attempt(request, call["tries"], derive_seed(seed, role, call["tries"]))
                )
                _spend(call, completion)
                try:
                    _require_said(completion, request)
                    return Answer(read(completion), call, completion.reasoning)
                except ThoughtOnly:
                    request = replace(request, thinks=True)
                    raise
    except Hopeless as error:
        raise CallFailed(role, type(error).__name__, str(error), call) from error
    except RetryError as error:
        last = error.last_attempt.exception()
        raise CallFailed(role, type(last).__name__, str(last), call) from last
    raise AssertionError("unreachable: a retry loop returns or raises")


def _worth_another_try(error: BaseException) -> bool:
    return isinstance(error, EngineError) and not isinstance(error, Hopeless)


def unanswered(role: str, tries: int = 0) -> dict[str, Any]:
    """Row of `aloe.schema.CALL` of a call that has cost nothing so far."""
    return {
        "role": role,
        "model": "",
        "finish_reason": "",
        "tries": tries,
        "prompt_tokens": 0,
        "cached_tokens": 0,
        "reusable_tokens": 0,
        "completion_tokens": 0,
        "seconds": 0.0,
        "cost_usd": 0.0,
        "replaced": 0,
    }


def _attempt(request: Request, number: int, seed: int) -> Request:
    if number == 1 or request.choices or request.temperature:
        return replace(request, seed=seed)
    # The greedy answer that could not be read would come again, whatever the seed.
    return replace(request, seed=seed, temperature=_SECOND_TEMPERATURE)


def _require_said(completion: Completion, request: Request) -> None:
    if completion.reasoning and not completion.text.strip() and not request.choices:
        raise ThoughtOnly(f"no message after {completion.completion_tokens} tokens of thought")
    if completion.finish_reason in ("refusal", "content_filter"):
        raise MalformedAnswer(f"{completion.model}: no answer ({completion.finish_reason})")


def _spend(call: dict[str, Any], completion: Completion) -> None:
    call["model"], call["finish_reason"] = completion.model, completion.finish_reason
    for usage in USAGE_FIELDS:
        call[usage.name] += getattr(completion, usage.name)
