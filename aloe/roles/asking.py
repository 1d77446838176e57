"""One call with tries: ask, read the answer, ask again with another seed if it cannot be read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from tenacity import AsyncRetrying, RetryError, retry_if_exception_type, stop_after_attempt

from aloe.engines import Completion, Engine, Request
from aloe.errors import CallFailed, EngineError
from aloe.schema import derive_seed

T = TypeVar("T")


@dataclass(frozen=True)
class Answer(Generic[T]):
    """What was understood, and what it cost (a row of `aloe.schema.CALL`)."""

    value: T
    call: dict[str, Any]


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
    """
    call: dict[str, Any] = {
        "role": role,
        "model": "",
        "finish_reason": "",
        "tries": 0,
        "prompt_tokens": 0,
        "cached_tokens": 0,
        "completion_tokens": 0,
        "seconds": 0.0,
    }
    try:
        async for attempt in AsyncRetrying(
            stop=stop_after_attempt(tries), retry=retry_if_exception_type(EngineError)
        ):
            with attempt:
                call["tries"] += 1
                completion = await engine.complete(
                    replace(request, seed=derive_seed(seed, role, call["tries"]))
                )
                _spend(call, completion)
                return Answer(read(completion), call)
    except RetryError as error:
        last = error.last_attempt.exception()
        raise CallFailed(role, type(last).__name__, str(last), call) from last
    raise AssertionError("unreachable: a retry loop returns or raises")


def _spend(call: dict[str, Any], completion: Completion) -> None:
    call["model"], call["finish_reason"] = completion.model, completion.finish_reason
    for key in ("prompt_tokens", "cached_tokens", "completion_tokens", "seconds"):
        call[key] += getattr(completion, key)
