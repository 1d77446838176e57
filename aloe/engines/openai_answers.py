"""Reading the body that a chat completions server sends with status 200.

========================================  =========================================================
what is there                             what it is
========================================  =========================================================
text, or a list of parts                  usable; parts of text are joined, thoughts set apart
no usage, null usage                      usable; 0 tokens are counted
``reasoning_content``, ``reasoning``      usable; set apart, as is a block of thoughts at the start
half a surrogate pair, NUL                usable; U+FFFD, counted
a refusal, ``content_filter``             the item's: no text, paid for, asked again with other seed
empty choices, a null message             try again a few times, then the item's
an error object                           what its code and words say, see `openai_faults`
HTML, broken JSON, no object              try again, and the world's when time is up
========================================  =========================================================
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from aloe.chat import repaired, split_thinking
from aloe.engines.openai_faults import Complaint, complaint_in

_SHOWN = 80
_ENDS = {
    "length": "length",
    "max_tokens": "length",
    "max_output_tokens": "length",
    "model_length": "length",
    "content_filter": "content_filter",
    "safety": "content_filter",
    "refusal": "refusal",
}
"""How a generation ended, in the protocol's words; what is not here has stopped by itself."""


@dataclass(frozen=True)
class Said:
    """A usable answer, or one that was paid for and holds no text."""

    text: str
    finish_reason: str
    """``stop``, ``length``, ``refusal`` or ``content_filter``; no text with the last two."""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    reasoning: str = ""
    replaced: int = 0
    top: tuple[tuple[str, float], ...] | None = None
    """The likeliest first tokens and their log-probs; None where there are no log-probs."""


class NoAnswer(Exception):
    """The body is none of a completion.

    Attributes:
        items: it may be this prompt's fault; else it is the server's.
    """

    def __init__(self, message: str, items: bool) -> None:
        super().__init__(message)
        self.items = items


class Complained(Exception):
    """The body is an error, whatever its status says."""

    def __init__(self, complaint: Complaint) -> None:
        super().__init__(complaint.message)
        self.complaint = complaint


def read_answer(raw: bytes) -> Said:
    """What a body of status 200 says.

    Raises:
        NoAnswer: it holds no completion.
        Complained: it holds an error.
    """
    body = _object(raw)
    _raise_error(body)
    choices = body.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise NoAnswer("the server sent no choice", items=True)
    choice = choices[0]
    _raise_error(choice)
    message = choice.get("message")
    if not isinstance(message, dict):
        raise NoAnswer("the server sent no message", items=True)
    parts = _Parts()
    parts.read(message.get("content"))
    for key in ("reasoning_content", "reasoning"):
        if not parts.thoughts and isinstance(message.get(key), str):
            parts.thoughts = message[key]
    if isinstance(message.get("refusal"), str):
        parts.refusal += message["refusal"]
    thought, text = split_thinking(parts.text)
    text, in_text = repaired(text)
    reasoning, in_reasoning = repaired("\n".join(filter(None, (parts.thoughts, thought))))
    end = _ENDS.get(str(choice.get("finish_reason")).lower(), "stop")
    if parts.refusal and not text.strip():
        end = "refusal"
    return Said(
        text="" if end in ("refusal", "content_filter") else text,
        finish_reason=end,
        **_usage(body.get("usage")),
        reasoning=reasoning,
        replaced=in_text + in_reasoning,
        top=_top(choice.get("logprobs")),
    )


@dataclass
class _Parts:
    """A message's content, sorted by what its parts are."""

    text: str = ""
    thoughts: str = ""
    refusal: str = ""

    def read(self, content: Any) -> None:
        if isinstance(content, str):
            self.text += content
        for part in content if isinstance(content, list) else ():
            if isinstance(part, str):
                self.text += part
            elif isinstance(part, dict):
                self._read_part(part)

    def _read_part(self, part: dict[str, Any]) -> None:
        match part.get("type", "text"):
            case "text" | "output_text":
                self.text += "".join(_texts(part.get("text")))
            case "thinking" | "reasoning":
                self.thoughts += "".join(_texts(part.get("thinking") or part.get("text")))
            case "refusal":
                self.refusal += "".join(_texts(part.get("refusal")))


def _texts(value: Any) -> Iterator[str]:
    """The texts in a part: itself, or those of the parts that it is a list of."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for part in value:
            yield from _texts(part.get("text") if isinstance(part, dict) else None)


def _object(raw: bytes) -> dict[str, Any]:
    text = raw.decode("utf-8", "replace")
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        raise NoAnswer(f"no JSON in the answer: {text[:_SHOWN]!r}", items=False) from None
    if not isinstance(body, dict):
        raise NoAnswer(f"no JSON object in the answer: {text[:_SHOWN]!r}", items=False)
    return body


def _raise_error(holder: dict[str, Any]) -> None:
    if holder.get("error"):
        raise Complained(complaint_in(None, holder))


def _usage(usage: Any) -> dict[str, int]:
    found = usage if isinstance(usage, dict) else {}
    details = found.get("prompt_tokens_details")
    prompt_tokens = _count(found, "prompt_tokens")
    cached = _count(details if isinstance(details, dict) else {}, "cached_tokens")
    return {
        "prompt_tokens": prompt_tokens,
        "cached_tokens": min(cached, prompt_tokens),
        "completion_tokens": _count(found, "completion_tokens"),
    }


def _count(usage: dict[str, Any], name: str) -> int:
    value = usage.get(name)
    return value if type(value) is int and value > 0 else 0


def _top(logprobs: Any) -> tuple[tuple[str, float], ...] | None:
    content = logprobs.get("content") if isinstance(logprobs, dict) else None
    if not isinstance(content, list) or not content or not isinstance(content[0], dict):
        return None
    likeliest = content[0].get("top_logprobs")
    entries = likeliest if isinstance(likeliest, list) and likeliest else [content[0]]
    found = [_entry(entry) for entry in entries]
    return tuple(entry for entry in found if entry is not None) or None


def _entry(entry: Any) -> tuple[str, float] | None:
    if not isinstance(entry, dict) or not isinstance(entry.get("token"), str):
        return None
    value = entry.get("logprob")
    if not isinstance(value, int | float) or math.isnan(value):
        return None
    return entry["token"], min(float(value), 0.0)
