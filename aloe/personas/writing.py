"""Asking a model for new personas, and reading its answer (paper, section 2.1)."""

from __future__ import annotations

import json
import re
from typing import Any, Literal, TypedDict

from aloe.config import PersonasConfig
from aloe.config.language import ENGLISH, Language
from aloe.engines import Completion, Engine, Message, Request
from aloe.errors import CallFailed, MalformedAnswer
from aloe.personas.lexicon import Kind, Lexicon
from aloe.personas.openings import draw_openings, guided_sentences, openings_of
from aloe.personas.repeats import repeats_itself
from aloe.roles import BUILT_IN, Prompts, ask
from aloe.roles.json_text import object_in
from aloe.roles.sentences import finished, joined, split_sentences
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
_LENGTHS = {"minLength": 5, "maxLength": 90}
_LENGTHS_ELSEWHERE = {"minLength": 2, "maxLength": 180}
"""Characters of a sentence: in Chinese two may be one, and an Indian vowel is one of its own."""
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
    engine: Engine,
    kind: Kind,
    shown: list[str],
    config: PersonasConfig,
    seed: int,
    prompts: Prompts = BUILT_IN,
) -> Outcome:
    """Ask for ``config.asked`` new texts; a request that fails for good is an outcome, no error.

    Args:
        shown: members of the pool to show as examples.
        seed: seed of this request; each try derives its own from it.
    """
    request = writing_request(kind, shown, config, seed, prompts)
    try:
        answer = await ask(
            engine,
            "writer",
            request,
            lambda completion: read_candidates(kind, completion, prompts),
            config.tries,
            seed,
        )
    except CallFailed as error:
        return Outcome(
            candidates=[], error_kind=error.kind, error_message=str(error), calls=[dict(error.call)]
        )
    return Outcome(
        candidates=answer.value, error_kind=None, error_message=None, calls=[answer.call]
    )


def writing_request(
    kind: Kind,
    shown: list[str],
    config: PersonasConfig,
    seed: int,
    prompts: Prompts = BUILT_IN,
) -> Request:
    """The examples become a chat of answers as large, and in the same JSON, as the one asked for.

    A small model repeats a form that it has seen itself use, far better than one that is described.
    """
    messages: list[Message] = [
        {"role": "system", "content": prompts.render(f"personas/prompts/{kind}_system.jinja")}
    ]
    for start in range(0, len(shown), config.asked):
        several = shown[start : start + config.asked]
        texts = [split_sentences(text, prompts.language.code) for text in several]
        begun = openings_of(texts[0]) if config.openings else []
        messages += [
            {"role": "user", "content": _question(prompts, kind, len(texts), begun)},
            {
                "role": "assistant",
                "content": json.dumps({_PLURAL[kind]: texts}, ensure_ascii=False),
            },
        ]
    openings = draw_openings(kind, derive_seed(seed, "openings")) if config.openings else []
    question = _question(prompts, kind, config.asked, openings, last=True)
    messages.append({"role": "user", "content": question})
    sampling = config.sampling
    return Request(
        messages,
        sampling.max_tokens,
        sampling.temperature,
        sampling.top_p,
        json_schema=answer_schema(kind, config.asked, openings, prompts.language),
    )


def answer_schema(
    kind: Kind, asked: int, openings: list[str], language: Language = ENGLISH
) -> dict[str, Any]:
    """JSON schema of an answer with ``asked`` texts, each a list of sentences."""
    sentences: dict[str, Any] = {
        "type": "array",
        "items": {
            "type": "string",
            **(_LENGTHS if language.code == "en" else _LENGTHS_ELSEWHERE),
        },
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


def read_candidates(
    kind: Kind, completion: Completion, prompts: Prompts = BUILT_IN
) -> list[Candidate]:
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
    lexicon = Lexicon(prompts)
    return [_candidate(kind, sentences, lexicon, prompts.language) for sentences in found]


def _candidate(kind: Kind, sentences: object, lexicon: Lexicon, language: Language) -> Candidate:
    if not isinstance(sentences, list) or not all(isinstance(part, str) for part in sentences):
        return Candidate(text=json.dumps(sentences, ensure_ascii=False), verdict="malformed")
    parts = [finished(" ".join(part.split())) for part in sentences if part.strip()]
    text, english = joined(parts), language.code == "en"
    if not FEWEST <= len(parts) <= MOST:
        return Candidate(text=text, verdict="malformed")
    broken_off = english and any(_BROKEN_OFF.search(part) for part in parts)
    if broken_off or repeats_itself(text, doubled=not english):
        return Candidate(text=text, verdict="garbled")
    return Candidate(text=text, verdict="off_topic" if lexicon.off_topic(kind, text) else "")


def _question(
    prompts: Prompts, kind: Kind, count: int, openings: list[str], last: bool = False
) -> str:
    return prompts.render(
        "personas/prompts/ask.jinja",
        count=count,
        noun=kind,
        plural=_PLURAL[kind],
        openings=openings,
        last=last,
    )
