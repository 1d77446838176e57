"""What a body says that something is wrong, under whatever names its server has for that.

Only what a server says itself is read: a validator that repeats what it was sent, or a sample that
it could not parse, speaks about anything.
"""

from __future__ import annotations

import ast
import json
import re
from dataclasses import dataclass, field
from typing import Any

_WORDS = {
    *("message", "msg", "detail", "description", "title", "faultstring", "errormessage"),
    *("error_description", "error_message", "error_msg", "status_msg", "statusmessage"),
}
_CODES = {
    *("code", "type", "status", "reason", "error_code", "errorcode", "error_type"),
    *("status_code", "statuscode"),
}
_PLACES = {"param", "field"}
_INSIDE = {
    *("error", "errors", "base_resp", "fault", "response", "metadata", "raw", "details"),
    *("innererror", "fieldviolations"),
}
_ROOTS = ("body", "query", "json")
_DEEPEST, _MOST = 8, 20
_LONGEST, _LONGEST_BODY = 2000, 100_000
_ECHO = re.compile(r"(?:\binput_value=|['\"]input['\"]: ).*?(?=, input_type=|$)", re.MULTILINE)
"""What a validator was sent, as it prints it."""


@dataclass
class Told:
    """The server's words, in the order in which they stand."""

    messages: list[str] = field(default_factory=list)
    codes: list[str] = field(default_factory=list)
    places: list[str] = field(default_factory=list)
    """Parameters that it names apart from its words."""


def told_in(body: Any) -> Told:
    """What is wrong; no messages where nothing is."""
    told = Told()
    _read(body, told, 0)
    return told


def json_in(raw: bytes) -> Any:
    """A body as JSON, or as text where it is none. It may begin with a byte-order mark."""
    text = raw.decode("utf-8-sig", "replace")
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _read(value: Any, told: Told, depth: int) -> None:
    if depth > _DEEPEST:
        return
    if isinstance(value, str):
        _read_text(value, told, depth)
    elif isinstance(value, list):
        for part in value[:_MOST]:
            _read(part, told, depth + 1)
    elif isinstance(value, dict):
        for key, part in value.items():
            _read_field(str(key).lower(), part, told, depth + 1)


def _read_field(name: str, value: Any, told: Told, depth: int) -> None:
    if name == "loc" and isinstance(value, list | tuple):
        parts = [str(part) for part in value]
        told.places.append(".".join(parts[parts[:1] in [[root] for root in _ROOTS] :]))
    elif name in _PLACES and isinstance(value, str):
        told.places.append(value)
    elif name in _CODES and isinstance(value, str | int) and not isinstance(value, bool):
        if value:
            told.codes.append(str(value))
    elif name in _WORDS or name in _INSIDE:
        _read(value, told, depth)


def _read_text(text: str, told: Told, depth: int) -> None:
    """Words, or a body within them: as JSON, or as a validator of Python's prints it."""
    lines = [text.strip()]
    if "'loc': (" in text:
        lines += [line.strip() for line in text.splitlines()]
    for line in lines:
        if (
            line.startswith(("{", "["))
            and len(line) < _LONGEST_BODY
            and (value := _value_in(line)) is not None
        ):
            _read(value, told, depth + 1)
            return
    if text.strip():
        told.messages.append(_ECHO.sub("", text.strip()[:_LONGEST]))


def _value_in(line: str) -> dict[str, Any] | list[Any] | None:
    for parse in (json.loads, ast.literal_eval):
        try:
            value = parse(line)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        if isinstance(value, dict | list):
            return value
    return None
