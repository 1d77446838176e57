"""Asking a model for new personas, and reading its answer (paper, section 2.1)."""

from __future__ import annotations

import json
import re
from collections import Counter
from itertools import pairwise
from typing import Any, Literal, TypedDict

from aloe.config import PersonasConfig
from aloe.engines import Completion, Engine, Message, Request
from aloe.errors import CallFailed, MalformedAnswer
from aloe.personas.lexicon import Kind, off_topic
from aloe.personas.openings import draw_openings, guided_sentences, openings_of
from aloe.roles import ask
from aloe.roles.json_text import object_in
from aloe.roles.prompts import render
from aloe.schema import derive_seed

Verdict = Literal[
    "", "accepted", "similar", "repeated", "surplus", "off_topic", "malformed", "garbled"
]
"""What became of a candidate; empty until the pool has decided.

similar: above the threshold. repeated: the very same text is known. surplus: the pool was full.
off_topic: a profile with a trait or a personality with an occupation. malformed: not 8 to 10
sentences. garbled: repeats itself or breaks off.
"""

FEWEST, MOST = 8, 10
"""Sentences in one persona part."""

_PLURAL: dict[Kind, str] = {"profile": "profiles", "personality": "personalities"}
_LEAST_DISTINCT = 0.55
"""Share of a text's words that differ, where it does not repeat itself."""
_MOST_REPEATS = 2
"""Times that the same three words may follow each other in one text."""
_SENTENCE_BREAK = re.compile(r"(?<=[.!?])\s+")
_BROKEN_OFF = re.compile(
    r"\b(?:a|about|an|and|are|as|at|but|for|from|her|his|is|its|of|or|that|the|their|to|very|was"
    r"|when|who|with)[^\w]*$",
    re.IGNORECASE,
)


class Candidate(TypedDict):
    """One text that a model wrote."""

    text: str
    verdict: Verdict


class Outcome(TypedDict):
    """What one request brought; the rest of a row of `aloe.schema.ROUNDS` is the pool's."""

    candidates: list[Candidate]
    error_kind: str | None
    error_message: str | None
    calls: list[dict[str, Any]]


async def write_candidates(
    engine: Engine, kind: Kind, shown: list[str], config: PersonasConfig, seed: int
) -> Outcome:
    """Ask for ``config.asked`` new texts; a request that fails for good is an outcome, no error.

    Args:
        shown: members of the pool to show as examples.
        seed: seed of this request; each try derives its own from it.
    """
    request = writing_request(kind, shown, config, seed)
    try:
        answer = await ask(
            engine, "writer", request, lambda c: read_candidates(kind, c), config.tries, seed
        )
    except CallFailed as error:
        return Outcome(
            candidates=[], error_kind=error.kind, error_message=str(error), calls=[dict(error.call)]
        )
    return Outcome(
        candidates=answer.value, error_kind=None, error_message=None, calls=[answer.call]
    )


def writing_request(kind: Kind, shown: list[str], config: PersonasConfig, seed: int) -> Request:
    """The examples become a chat of answers as large, and in the same JSON, as the one asked for.

    A small model repeats a form that it has seen itself use, far better than one that is described.
    """
    messages: list[Message] = [
        {"role": "system", "content": render(f"personas/prompts/{kind}_system.jinja")}
    ]
    for start in range(0, len(shown), config.asked):
        texts = [sentences_of(text) for text in shown[start : start + config.asked]]
        begun = openings_of(texts[0]) if config.openings else []
        messages += [
            {"role": "user", "content": _question(kind, len(texts), begun)},
            {
                "role": "assistant",
                "content": json.dumps({_PLURAL[kind]: texts}, ensure_ascii=False),
            },
        ]
    openings = draw_openings(kind, derive_seed(seed, "openings")) if config.openings else []
    question = _question(kind, config.asked, openings, last=True)
    messages.append({"role": "user", "content": question})
    sampling = config.sampling
    return Request(
        messages,
        sampling.max_tokens,
        sampling.temperature,
        sampling.top_p,
        json_schema=answer_schema(kind, config.asked, openings),
    )


def answer_schema(kind: Kind, asked: int, openings: list[str]) -> dict[str, Any]:
    """JSON schema of an answer with ``asked`` texts, each a list of sentences."""
    sentences: dict[str, Any] = {
        "type": "array",
        "items": {"type": "string", "minLength": 5, "maxLength": 90},
        "minItems": FEWEST,
        "maxItems": MOST,
    }
    texts = {
        "type": "array",
        "items": guided_sentences(openings) if openings else sentences,
        "minItems": asked,
        "maxItems": asked,
    }
    return {
        "type": "object",
        "properties": {_PLURAL[kind]: texts},
        "required": [_PLURAL[kind]],
        "additionalProperties": False,
    }


def read_candidates(kind: Kind, completion: Completion) -> list[Candidate]:
    """The texts of an answer; those of no use are marked, not dropped.

    Raises:
        MalformedAnswer: the answer is not the JSON object that was asked for.
    """
    try:
        found = object_in(completion.text, [_PLURAL[kind]])[_PLURAL[kind]]
    except ValueError as error:
        raise MalformedAnswer(f"writer: not the JSON asked for: {completion.text!r:.80}") from error
    if not isinstance(found, list) or not found:
        raise MalformedAnswer(f"writer: no {_PLURAL[kind]} in the answer: {completion.text!r:.80}")
    return [_candidate(kind, sentences) for sentences in found]


def sentences_of(text: str) -> list[str]:
    """A text cut after each full stop, exclamation and question mark."""
    return _SENTENCE_BREAK.split(text)


def _candidate(kind: Kind, sentences: object) -> Candidate:
    if not isinstance(sentences, list) or not all(isinstance(part, str) for part in sentences):
        return Candidate(text=json.dumps(sentences, ensure_ascii=False), verdict="malformed")
    finished = [_finished(part) for part in sentences if part.strip()]
    text = " ".join(finished)
    if not FEWEST <= len(finished) <= MOST:
        return Candidate(text=text, verdict="malformed")
    if _garbled(text) or any(_BROKEN_OFF.search(part) for part in finished):
        return Candidate(text=text, verdict="garbled")
    return Candidate(text=text, verdict="off_topic" if off_topic(kind, text) else "")


def _finished(sentence: str) -> str:
    plain = " ".join(sentence.split())
    return plain if plain[-1] in ".!?" else f"{plain}."


def _garbled(text: str) -> bool:
    words = re.findall(r"\w+", text.lower())
    phrases = Counter(zip(words, words[1:], words[2:], strict=False))
    return (
        any(word == following for word, following in pairwise(words))
        or max(phrases.values(), default=0) > _MOST_REPEATS
        or len(set(words)) < _LEAST_DISTINCT * len(words)
    )


def _question(kind: Kind, count: int, openings: list[str], last: bool = False) -> str:
    return render(
        "personas/prompts/ask.jinja",
        count=count,
        noun=kind,
        plural=_PLURAL[kind],
        openings=openings,
        last=last,
    )
