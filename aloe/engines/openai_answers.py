"""Reading the body that a chat completions server sends with status 200.

========================================  =========================================================
what is there                             what it is
========================================  =========================================================
text, or a list of parts                  usable; parts of text are joined, thoughts set apart
no usage, null usage                      usable; tokens are estimated, which is said once
``reasoning_content``, ``reasoning``      usable; set apart, as is a block of thoughts at the start
half a surrogate pair, NUL                usable; U+FFFD, counted
a refusal, ``content_filter``             the item's: no text, paid for, asked again with other seed
empty choices, a null message             try again a few times, then the item's
a generation that was broken off          try again, and the world's when time is up
an error, with or without ``error``       what its code and words say, see `openai_faults`
HTML, broken JSON, no object              try again, and the world's when time is up
========================================  =========================================================
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any
from unicodedata import normalize

from aloe.chat import Message, repaired, split_thinking
from aloe.engines.openai_bodies import json_in, told_in
from aloe.engines.openai_faults import Complaint, complaint_in

_SHOWN = 80
_HALF = 0.5
_BLANKS = " \t\r\n\u2581\u0120\u010a"
"""White space, and what stands for it in tokens that were not decoded."""
_MOST_TOKENS = 1 << 40
_BYTES_PER_TOKEN = 4
_ENDS = (
    ("stop", re.compile(r"^(?:eos|stop|end)")),
    (
        "content_filter",
        re.compile(
            r"filter|safety|prohibit|recitation|blocklist|blocked|spii|sensitiv|moderat|guardrail"
            r"|polic|censor|violat|jailbreak"
        ),
    ),
    ("refusal", re.compile(r"refus")),
    (
        "",
        re.compile(
            r"error|abort|cancel|unload|resource|fail|timeout|timed|interrupt|overload|disconnect"
            r"|unavailable|crash|kill|evict|preempt|shutdown|incomplete|malformed|^other$"
        ),
    ),
    ("length", re.compile(r"length|tokens|limit|context")),
)
"""How a generation ended, by the words that servers have for it; no end of ours: the server broke
it off. What is not here has stopped by itself."""


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
        NoAnswer: it holds no completion, or one that was broken off.
        Complained: it holds an error.
    """
    body = _object(raw)
    _raise_error(body)
    choices = body.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        if told_in(body).messages:
            raise Complained(complaint_in(None, body))
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
    end = _end(choice.get("finish_reason"))
    if not end:
        raise NoAnswer(
            f"the server broke the answer off ({choice.get('finish_reason')!r:.80})", items=False
        )
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


def _end(reason: Any) -> str:
    """How a generation ended, in our words; empty where the server broke it off."""
    if isinstance(reason, list):
        reason = reason[0] if reason else None
    if isinstance(reason, dict):
        reason = reason.get("type") or reason.get("reason")
    told = reason.lower() if isinstance(reason, str) else ""
    return next((end for end, words in _ENDS if words.search(told)), "stop")


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
    body = json_in(raw)
    text = raw.decode("utf-8-sig", "replace")
    if body == text:
        raise NoAnswer(f"no JSON in the answer: {text[:_SHOWN]!r}", items=False)
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
    if type(value) is float and value.is_integer():
        value = int(value)
    return value if type(value) is int and 0 < value < _MOST_TOKENS else 0


def with_estimates(said: Said, messages: Sequence[Message]) -> Said:
    """The answer itself, or with estimates of what the server did not count."""
    prompt = said.prompt_tokens or estimated_tokens(*(m["content"] for m in messages))
    completion = said.completion_tokens or estimated_tokens(said.text, said.reasoning)
    if (prompt, completion) == (said.prompt_tokens, said.completion_tokens):
        return said
    return replace(said, prompt_tokens=prompt, completion_tokens=completion)


def estimated_tokens(*texts: str) -> int:
    """About how many tokens texts have; a letter of most scripts is two or three bytes."""
    size = sum(len(text.encode("utf-8", "replace")) for text in texts)
    return -(-size // _BYTES_PER_TOKEN)


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


def choice_logprobs(
    top: tuple[tuple[str, float], ...], choices: tuple[str, ...]
) -> dict[str, float]:
    """Log-probs among the choices, from the likeliest tokens.

    Empty where the answer is something else: its likeliest token is no choice, and the choices
    together are less likely than not. The tail of an answer in words says nothing of its meaning.

    A choice that is not among the likeliest tokens has at most the least probability seen there,
    and at most an even share of what all of them leave over.
    """
    mass, likeliest, begins = dict.fromkeys(choices, 0.0), -math.inf, False
    for token, logprob in top:
        choice = normalize("NFKC", token).strip(_BLANKS)
        if choice in mass:
            mass[choice] += math.exp(logprob)
        if logprob >= likeliest:
            begins = choice in mass or (begins and logprob == likeliest)
            likeliest = logprob
    if not begins and sum(mass.values()) < _HALF:
        return {}
    missing = [choice for choice, value in mass.items() if not value]
    seen = [math.exp(logprob) for _, logprob in top]
    left_over = max(0.0, 1.0 - sum(seen))
    for choice in missing:
        mass[choice] = min(min(seen), left_over / len(missing))
    total = sum(mass.values())
    return {choice: math.log(max(value, 1e-30) / total) for choice, value in mass.items()}
