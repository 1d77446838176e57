"""What is sent with a call, and what a server has shown that it does not take.

A server's habits are learned from its refusals, see `openai_faults.refused_parameter`. They only
ever shrink what is sent, so that a call is refused a few times at most.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from aloe.chat import Message
from aloe.config import OpenAIModel
from aloe.engines.base import Request

_TOP_LOGPROBS = 20  # the protocol's upper bound
_FEWER_LOGPROBS = 5  # what many servers allow
_LIMITS = ("max_completion_tokens", "max_tokens")
_VARIABLES = "chat_template_kwargs"
_PLAIN = ("temperature", "top_p", "seed", "stop")
"""Parameters without another form: left out once they are refused."""


@dataclass(frozen=True)
class Habits:
    """What a server takes."""

    without: frozenset[str] = frozenset()
    """Parameters that it refuses in every form."""
    limit: str = _LIMITS[0]
    """Its name for the longest completion."""
    top_logprobs: int = _TOP_LOGPROBS
    schema: str = "json_schema"
    """Type of the response format; empty where only the prompt tells the form."""
    system: bool = True
    """Whether a chat may begin with a system message; else the first user message holds it."""


_known: dict[OpenAIModel, Habits] = {}


def remember(habits: Mapping[OpenAIModel, Habits]) -> None:
    """From now on engines in this process begin with these."""
    _known.update(habits)


def known_habits() -> dict[OpenAIModel, Habits]:
    """What was remembered, for another process."""
    return dict(_known)


def first_habits(model: OpenAIModel) -> Habits:
    """What is remembered; else habits before any refusal, without what ``params`` omits."""
    if model in _known:
        return _known[model]
    omitted = frozenset(name for name, value in model.params.items() if value == "omit")
    habits = Habits(schema="json_schema" if model.native_schema else "json_object")
    habits = replace(habits, without=omitted - {"response_format", *_LIMITS})
    if "response_format" in omitted:
        habits = replace(habits, schema="")
    if any(name in model.params for name in _LIMITS):
        # An own value takes the place of ours; where one name is omitted, the other is sent.
        free = [name for name in _LIMITS if name not in model.params]
        habits = replace(habits, limit=free[0] if free and omitted & set(_LIMITS) else "")
    return habits


def body_of(request: Request, model: OpenAIModel, habits: Habits) -> dict[str, Any]:
    """The body of a call: what the request asks for, as far as the server takes it."""
    messages = request.messages if habits.system else without_system(request.messages)
    body: dict[str, Any] = {"model": model.model, "messages": messages}
    asked: dict[str, Any] = {
        "temperature": 0 if request.choices else request.temperature,
        "top_p": request.top_p,
        "seed": request.seed,
    }
    if request.stop:
        asked["stop"] = list(request.stop)
    if habits.limit:
        asked[habits.limit] = most_tokens(request, model)
    if request.choices and "logprobs" not in habits.without:
        asked |= {"logprobs": True, "top_logprobs": habits.top_logprobs}
    elif request.json_schema is not None and not request.choices:
        asked |= _response_format(request.json_schema, habits.schema)
    body |= {name: value for name, value in asked.items() if name not in habits.without}
    body |= _template_variables(request, model)
    body |= {name: value for name, value in model.params.items() if value != "omit"}
    return body | model.extra_body


def most_tokens(request: Request, model: OpenAIModel) -> int:
    """The longest completion that a call asks for, in tokens."""
    if request.choices:
        return 1
    return request.max_tokens + (model.thinking_tokens if request.thinks else 0)


def _template_variables(request: Request, model: OpenAIModel) -> dict[str, Any]:
    """What the server hands to its chat template, where the configuration says anything."""
    variables: dict[str, Any] = dict(model.chat_template_kwargs)
    if model.thinking is not None:
        # No thought can stand before a choice, which is one token.
        thinks = model.thinking != "off" and not request.choices
        variables = {"enable_thinking": thinks} | variables
    return {_VARIABLES: variables} if variables else {}


def _response_format(schema: Any, kind: str) -> dict[str, Any]:
    match kind:
        case "json_schema":
            native = {"name": "answer", "schema": dict(schema)}
            return {"response_format": {"type": kind, "json_schema": native}}
        case "json_object":
            return {"response_format": {"type": kind}}
    return {}


def without_system(messages: list[Message]) -> list[Message]:
    """The chat with its system message at the head of the first user message."""
    if not messages or messages[0]["role"] != "system":
        return messages
    system, rest = messages[0]["content"], messages[1:]
    if rest and rest[0]["role"] == "user":
        system, rest = f"{system}\n\n{rest[0]['content']}", rest[1:]
    return [{"role": "user", "content": system}, *rest]


def sent_parameters(body: dict[str, Any], model: OpenAIModel) -> frozenset[str]:
    """Names in a body that a call can do without: not what the configuration insists on."""
    insisted = {"model", "messages", _VARIABLES, *model.params, *model.extra_body}
    system = {"system"} if body["messages"][0]["role"] == "system" else set()
    return frozenset(body.keys() - insisted | system)


def learned(habits: Habits, name: str) -> tuple[Habits, str]:
    """Habits after a parameter was refused, and what becomes of it, for the user to read."""
    if name in _LIMITS:
        other = _LIMITS[1] if name == _LIMITS[0] else _LIMITS[0]
        return _limit(habits, name, other)
    if name == "response_format":
        weaker = {"json_schema": "json_object", "json_object": ""}[habits.schema]
        told = f"asks for {weaker} instead" if weaker else "the prompt alone tells the form"
        return replace(habits, schema=weaker), told
    if name == "system":
        return replace(habits, system=False), "its text goes into the first user message"
    if name in ("logprobs", "top_logprobs"):
        if habits.top_logprobs > _FEWER_LOGPROBS:
            return replace(habits, top_logprobs=_FEWER_LOGPROBS), f"asks for {_FEWER_LOGPROBS}"
        without = habits.without | {"logprobs", "top_logprobs"}
        return replace(habits, without=without), "left out; a judge's choices are voted on"
    told = "left out; answers are cut here" if name == "stop" else "left out; the server's applies"
    return replace(habits, without=habits.without | {name}), told


def _limit(habits: Habits, name: str, other: str) -> tuple[Habits, str]:
    if other in habits.without:
        return replace(habits, limit=""), "left out; answers are as long as the server lets them"
    return replace(habits, limit=other, without=habits.without | {name}), f"sends {other} instead"


def not_honoured(habits: Habits) -> list[str]:
    """What of a sampler the server does not let a call decide."""
    return sorted(habits.without & set(_PLAIN) - {"stop"})
