"""Conversations that people have: ShareGPT's ``conversations``, or chat ``messages``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from aloe.chat import Message
from aloe.errors import UserError
from aloe.given.records import read_records
from aloe.given.texts import is_missing, joined, text_of
from aloe.schema import stable_id

_TALK = ("conversations", "messages", "conversation")
_IDS = ("conversation_id", "id")
_PERSONA = ("persona_id", "persona", "profile", "personality")
_ROLES = {
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "model": "assistant",
    "system": "system",
}


@dataclass(frozen=True)
class Conversation:
    """What a user and an assistant said in turns, the user first."""

    conversation_id: str
    """As it is given, else a hash of what was said."""
    messages: tuple[Message, ...]
    """Roles are user and assistant; a system message before them is passed over."""
    persona_id: str | None = None
    profile: str = ""
    """What is told of the user, all of it where there is no personality."""
    personality: str = ""
    place: str = ""
    """Where it stands, such as ``FILE:LINE``."""

    @property
    def replies(self) -> int:
        """Messages of the assistant."""
        return len(self.messages) // 2


def read_conversations(paths: Iterable[str]) -> Iterator[Conversation]:
    """The conversations of some files, one after the other.

    Args:
        paths: of any form that `aloe.given.read_records` reads, with a column ``conversations``
            (items ``{from: human | gpt, value}``), ``messages`` or ``conversation`` (items
            ``{role: user | assistant, content}``), in tables of text as JSON; and if there are such
            ``id``, ``persona_id``, ``persona`` or ``profile`` and ``personality``.

    Raises:
        UserError: a file cannot be read, or a row is not of that form: it is named at once.
    """
    for path in paths:
        found = False
        for place, record in read_records(path, (), (*_TALK, *_IDS, *_PERSONA)):
            found = True
            try:
                if isinstance(record, ValueError):
                    raise record
                yield replace(_conversation(record), place=place)
            except ValueError as error:
                raise UserError(f"{place}: {error}") from error
        if not found:
            raise UserError(f"{path}: no conversation there, expected at least one")


def _conversation(row: Mapping[str, Any]) -> Conversation:
    row = {name: value for name, value in row.items() if not is_missing(value)}
    column = next((name for name in _TALK if name in row), None)
    if column is None:
        raise ValueError(f"no conversation, expected one of {', '.join(_TALK)}")
    messages = _messages(row[column])
    given = next((_id(row, name) for name in _IDS if name in row), None)
    there = {name: row[name] for name in _PERSONA if name in row}
    told = joined(there, [name for name in ("persona", "profile") if name in there])
    personality = joined(there, [name for name in ("personality",) if name in there])
    return Conversation(
        given or stable_id(messages),
        messages,
        _id(there, "persona_id") if "persona_id" in there else None,
        told or personality,
        personality if told else "",
    )


def _id(row: Mapping[str, Any], name: str) -> str:
    try:
        return text_of(row[name])
    except ValueError as error:
        raise ValueError(f"no id in {name}, expected text or a number") from error


def _messages(value: object) -> tuple[Message, ...]:
    if isinstance(value, str | bytes):  # of a table of text
        try:
            value = json.loads(value)
        except RecursionError:
            raise ValueError("no messages, expected a list of them, nested less deeply") from None
        except ValueError as error:
            raise ValueError("no messages, expected a list of them, or JSON of one") from error
    if not isinstance(value, list) or not value:
        raise ValueError("no messages, expected a list of them")
    messages: list[Message] = []
    for number, item in enumerate(value, start=1):
        try:
            message = _message(item)
            if message["role"] == "system" and number == 1:
                continue
            expected = "assistant" if len(messages) % 2 else "user"
            if message["role"] != expected:
                raise ValueError(f"from the {message['role']}, expected one from the {expected}")
        except ValueError as error:
            raise ValueError(f"message {number}: {error}") from error
        messages.append(message)
    if not messages:
        raise ValueError("no messages of a user, expected some")
    return tuple(messages)


def _message(item: object) -> Message:
    if not isinstance(item, dict):
        raise ValueError("expected an object with role and content, or from and value")
    said_by = next((item[key] for key in ("role", "from") if item.get(key) is not None), None)
    role = _ROLES.get(said_by.lower()) if isinstance(said_by, str) else None
    if role is None:
        raise ValueError(f"its role is {said_by!r}, expected user or assistant (human or gpt)")
    text = next((item[key] for key in ("content", "value") if item.get(key) is not None), "")
    if isinstance(text, list):
        text = "\n".join(_text_of_part(part) for part in text)
    if not isinstance(text, str) or not text.strip():
        raise ValueError("no text, expected some")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError("its text holds half a surrogate pair, which is no character") from error
    return {"role": role, "content": text}


def _text_of_part(part: object) -> str:
    text = part.get("text") if isinstance(part, dict) else None
    if not isinstance(text, str):
        raise ValueError("a part of it is no text, expected text only")
    return text
