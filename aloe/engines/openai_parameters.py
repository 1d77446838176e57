"""What is sent with a call, and what a server has shown that it does not take.

A server's habits are learned from its refusals, see `openai_faults.refused_parameter`. They only
ever narrow what is sent, so that a call is refused a few times at most. A value that is refused
changes the calls that have it; only a parameter that is refused with a plain one is left out.
"""

from __future__ import annotations

import re
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
_COLDEST, _HOTTEST, _MOST_STOPS = 0.01, 1.0, 4
_LEAST_LIMIT = 16
_VALUE = re.compile(
    r"too (?:large|small|high|low|big|many)|at (?:most|least)|(?:less|greater|more|fewer|smaller"
    r"|larger|bigger)[ _]than|[<>]=?|\u2264|\u2265|min(?:imum)?\b|max(?:imum)?\b|below|above|exceed"
    r"|rang(?:e|ing)|between|up to"
)
"""Words about a value; others are about its parameter."""
_NAME = re.compile(
    r"(?:unsupported|unknown|invalid) (?:parameter|argument|field|name)|unrecogni[sz]ed|unexpected"
    r"|extra |not permitted|use ['\"`]?max_"
)
_TOO_SMALL = re.compile(
    r"too (?:small|low)|at least|greater than or|minimum|below|\bmin\b|>=|\u2265"
)


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
    edges: frozenset[str] = frozenset()
    """Values at the edge that it refuses, see `edge_of`."""
    least: int = 1
    """Its shortest limit of a completion."""
    most: int | None = None
    """Its longest limit of a completion; None is without bound."""
    counts: bool = True
    """Whether it tells how many tokens a call needed; else they are estimated."""


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
    asked = _within_edges(asked, habits.edges)
    if habits.limit:
        limit = max(most_tokens(request, model), habits.least)
        asked[habits.limit] = limit if habits.most is None else min(limit, habits.most)
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


def edge_of(name: str, value: Any) -> str | None:
    """What is out of the ordinary in a value: a server that refuses it may take others."""
    if name == "temperature":
        return "temperature 0" if value <= 0 else "temperature above 1" if value > 1 else None
    if name == "top_p":
        return "top_p 1" if value >= 1 else None
    if name == "stop":
        return "stop" if len(value) > _MOST_STOPS or not all(map(str.strip, value)) else None
    return None


def _within_edges(asked: dict[str, Any], edges: frozenset[str]) -> dict[str, Any]:
    """Parameters with the nearest values that the server takes; answers are cut here anyway."""
    found: dict[str, Any] = {}
    for name, value in asked.items():
        match edge_of(name, value):
            case None:
                found[name] = value
            case edge if edge not in edges:
                found[name] = value
            case "temperature 0":
                found[name] = _COLDEST
            case "temperature above 1":
                found[name] = _HOTTEST
            case "stop":
                if stops := [text for text in value if text.strip()][:_MOST_STOPS]:
                    found[name] = stops
            case "top_p 1":
                pass  # which is what a server without it does
    return found


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


def learned(habits: Habits, name: str, value: Any = None, message: str = "") -> tuple[Habits, str]:
    """Habits after a parameter was refused, and what becomes of it, for the user to read.

    Args:
        value: that was refused.
        message: what the server said of it.
    """
    if name in _LIMITS:
        bounded = _bounded(habits, value, message.lower())
        return bounded or _limit(habits, name, _LIMITS[1 - _LIMITS.index(name)])
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
    edge = None if value is None else edge_of(name, value)
    if edge and edge not in habits.edges:
        told = f"calls with {'some texts' if name == 'stop' else edge} send the nearest that may be"
        return replace(habits, edges=habits.edges | {edge}), told
    told = "left out; answers are cut here" if name == "stop" else "left out; the server's applies"
    return replace(habits, without=habits.without | {name}), told


def _bounded(habits: Habits, value: Any, message: str) -> tuple[Habits, str] | None:
    """Habits after a limit of a completion was too small or too large; None if it was neither."""
    if type(value) is not int or _NAME.search(message) or not _VALUE.search(message):
        return None
    told = [int(number) for number in re.findall(r"(?<![\w.-])\d{1,9}(?![\w.]*\w)", message)]
    larger, smaller = [n for n in told if n > value], [n for n in told if 1 <= n < value]
    too_small = bool(larger) and not smaller
    if bool(larger) == bool(smaller):
        too_small = bool(_TOO_SMALL.search(message))
    if too_small:
        least = min(larger, default=max(_LEAST_LIMIT, 2 * value))
        within = habits.most is None or least <= habits.most
        return (replace(habits, least=least), f"sends {least} at least") if within else None
    most = max(smaller, default=value // 2)
    within = most >= habits.least
    return (replace(habits, most=most), f"sends {most} at most") if within else None


def _limit(habits: Habits, name: str, other: str) -> tuple[Habits, str]:
    """Habits after a limit was refused by its name."""
    without = habits.without | {name}
    if other in habits.without:
        told = "left out; answers are as long as the server lets them"
        return replace(habits, limit="", without=without), told
    return replace(habits, limit=other, without=without), f"sends {other} instead"


def not_honoured(habits: Habits) -> list[str]:
    """What of a sampler the server does not let a call decide."""
    found = set(habits.without & set(_PLAIN) - {"stop"})
    if "temperature above 1" in habits.edges:
        found.add("temperature")
    if habits.most is not None or habits.without >= set(_LIMITS):
        found.add("max_tokens")
    return sorted(found)
