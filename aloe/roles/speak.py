"""The five roles of a dialogue tree (paper section 3) and the scoring judge of the benchmark.

Prompts are laid out for the prefix cache: what stays the same comes first, histories only grow at
their end, and guided and unguided replies share everything up to the hint.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from aloe.config import Sampling
from aloe.config.language import ENGLISH, Language
from aloe.engines import Completion, Engine, Message, Request
from aloe.engines.judging import why_undecided
from aloe.errors import MalformedAnswer
from aloe.roles.asking import Answer, ask
from aloe.roles.json_text import object_in
from aloe.roles.prompts import BUILT_IN, Prompts
from aloe.roles.text import user_message
from aloe.verifiable import CHECKS, Part, Person, Step, conversation, hinted, share_met, twin_of

MAX_SENTENCES = 3
"""Longest message of a user (paper section 3)."""

_PREFERENCE = ("1", "2")
_EVEN = 1e-6
"""Distance from 1/2 within which a probability is a tie: shares and exact judges round."""
_RATING = ("1", "2", "3", "4", "5")
CHOICES = (_PREFERENCE, _RATING)
"""What a judge chooses from: the preferred reply, and a rating."""
_FACTS: dict[str, Any] = {
    "type": "array",
    "items": {"type": "string", "minLength": 3, "maxLength": 80},
    "maxItems": 4,
}
_NOTED = ("profile", "personality")
INDUCTION_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"profile": _FACTS, "personality": _FACTS},
    "required": list(_NOTED),
    "additionalProperties": False,
}
_SHORTEST, _LONGEST = 1, 160
"""Characters of a note where people do not talk English: two in Chinese may say all, and an Indian
vowel is a character of its own."""


@dataclass(frozen=True)
class Persona:
    """Who the simulated user is: everyday facts and traits."""

    persona_id: str
    profile: str
    personality: str
    preferences: tuple[str, ...] = ()
    """Kinds of `aloe.verifiable.CHECKS`, which the personality tells in words."""
    twin_id: str | None = None
    """The same of two who like the opposites and share all else, the seeds of samplers too."""
    plan: Person | None = None
    """Who a program plays or plans turn by turn; None where the user says what it likes."""

    def met(self, *replies: str) -> tuple[float, ...]:
        """Of each reply the share of the preferences that it meets; empty without any."""
        if not self.preferences:
            return ()
        return tuple(share_met(self.preferences, reply, self.profile) for reply in replies)

    @property
    def sampled_as(self) -> str:
        """What seeds of samplers are derived from."""
        return self.twin_id or self.persona_id

    @property
    def twin(self) -> Persona:
        """Who likes the opposites; only of those whose turns are planned."""
        assert self.plan is not None
        kinds = twin_of(self.preferences)
        return replace(self, preferences=kinds, plan=replace(self.plan, kinds=kinds))

    def planned(self, history: Sequence[Message]) -> list[Step]:
        """What the plan has said in a conversation and says next; empty without one."""
        return self.planned_after(replies_in(history))

    def planned_after(self, replies: Sequence[str]) -> list[Step]:
        """The same, given what was answered so far."""
        return [] if self.plan is None else conversation(self.plan, replies)


def replies_in(history: Sequence[Message]) -> list[str]:
    """What was answered in a conversation."""
    return [message["content"] for message in history if message["role"] == "assistant"]


def persona_of(
    row: Mapping[str, Any],
    planned: bool = False,
    wordings: Part = "train",
    topics: Part = "train",
) -> Persona:
    """The person of a row of `aloe.schema.PERSONAS`, or of another table with its columns.

    Args:
        planned: its user is played or planned by a program, with these wordings and topics.
    """
    told = (row["persona_id"], row["profile"], row["personality"])
    kinds = tuple(row["preferences"] or ())
    plan = Person(row["twin_id"], kinds, wordings, topics) if planned else None
    return Persona(*told, kinds, row.get("twin_id"), plan)


@dataclass(frozen=True)
class Induced:
    """What the person has revealed so far; None where nothing was."""

    profile: str | None
    personality: str | None


@dataclass(frozen=True)
class Preference:
    """The judge's view of two replies.

    ``guided_first`` and ``guided_second`` are P(guided preferred) when the guided reply is shown
    first and second.
    """

    guided_first: float
    guided_second: float

    @property
    def guided(self) -> float:
        """P(guided preferred), mean of both orders."""
        return (self.guided_first + self.guided_second) / 2

    @property
    def agrees(self) -> bool:
        """Whether both orders prefer the same reply; an order that prefers none does not."""
        first, second = map(_preferred, (self.guided_first, self.guided_second))
        return first is not None and first == second

    @property
    def guided_preferred(self) -> bool | None:
        """Which reply both orders prefer on average; None if neither."""
        return _preferred(self.guided)


def is_even(probability: float) -> bool:
    """Whether a probability says that neither of two is preferred."""
    return abs(probability - 0.5) < _EVEN


def _preferred(probability: float) -> bool | None:
    return None if is_even(probability) else probability > 0.5


def policy_messages(
    history: Sequence[Message], hint: Induced | None = None, prompts: Prompts = BUILT_IN
) -> list[Message]:
    """What the policy reads: system prompt and history; a hint goes to the very end.

    Without a hint these are the messages of training rows and of evaluation.
    """
    messages: list[Message] = [
        {"role": "system", "content": prompts.render("dialogue/prompts/reply_system.jinja")},
        *history,
    ]
    if hint is not None and (hint.profile or hint.personality):
        note = prompts.render("dialogue/prompts/reply_hint.jinja", hint=hint)
        last = messages[-1]
        messages[-1] = {"role": last["role"], "content": f"{last['content']}\n\n{note}"}
    return messages


async def say_user(
    engine: Engine,
    persona: Persona,
    history: Sequence[Message],
    sampling: Sampling,
    tries: int,
    seed: int,
    prompts: Prompts = BUILT_IN,
) -> Answer[str]:
    """The simulated user's next message. It knows the full persona and reveals it bit by bit."""
    steps = persona.planned(history)
    flipped: list[Message] = [
        {"role": "assistant" if m["role"] == "user" else "user", "content": m["content"]}
        for m in history
    ]
    messages: list[Message] = [
        {
            "role": "system",
            "content": prompts.render("dialogue/prompts/user_system.jinja", persona=persona),
        },
        {"role": "user", "content": prompts.render("dialogue/prompts/user_start.jinja")},
        *flipped,
    ]
    if steps:
        messages[-1] = _with_plan(messages[-1], persona, steps[-1], prompts)
    request = replace(_sampled(messages, sampling), said=steps[-1].text if steps else "")
    language = prompts.language.code
    return await ask(
        engine,
        "user",
        request,
        lambda completion: _user_message(completion, language),
        tries,
        seed,
    )


async def induce(
    engine: Engine,
    persona: Persona,
    history: Sequence[Message],
    max_tokens: int,
    tries: int,
    seed: int,
    prompts: Prompts = BUILT_IN,
) -> Answer[Induced]:
    """The part of the persona that the conversation has shown; greedy and conservative."""
    messages: list[Message] = [
        {
            "role": "system",
            "content": prompts.render("dialogue/prompts/inducer_system.jinja", persona=persona),
        },
        {
            "role": "user",
            "content": prompts.render("dialogue/prompts/inducer_question.jinja", history=history),
        },
    ]
    steps = persona.planned(history)
    request = Request(
        messages,
        max_tokens,
        0.0,
        1.0,
        json_schema=_induction_schema(prompts.language),
        said=json.dumps(_exact_notes(steps)) if steps else "",
    )
    return await ask(engine, "inducer", request, _induced, tries, seed)


async def reply(
    engine: Engine,
    role: str,
    history: Sequence[Message],
    hint: Induced | None,
    sampling: Sampling,
    tries: int,
    seed: int,
    prompts: Prompts = BUILT_IN,
    said: str = "",
) -> Answer[str]:
    """The assistant's next message, as it was said.

    Args:
        role: guided, unguided or policy.
        said: what it says where it is a program.
    """
    request = replace(_sampled(policy_messages(history, hint, prompts), sampling), said=said)
    return await ask(engine, role, request, _message, tries, seed)


async def prefer(
    engine: Engine,
    persona: Persona,
    history: Sequence[Message],
    first: str,
    second: str,
    tries: int,
    seed: int,
    prompts: Prompts = BUILT_IN,
) -> Answer[float]:
    """P(this persona prefers ``first``), from log-probs; ask again with the replies swapped."""
    messages: list[Message] = [
        {
            "role": "system",
            "content": prompts.render("dialogue/prompts/judge_system.jinja", persona=persona),
        },
        {
            "role": "user",
            "content": prompts.render(
                "dialogue/prompts/judge_question.jinja", history=history, first=first, second=second
            ),
        },
    ]
    request = Request(
        messages,
        choices=_PREFERENCE,
        options=prompts.options("dialogue", _PREFERENCE),
        met=persona.met(first, second),
    )
    return await ask(engine, "judge", request, lambda c: _probabilities(c)[0], tries, seed)


async def score(
    engine: Engine,
    persona: Persona,
    history: Sequence[Message],
    answer: str,
    tries: int,
    seed: int,
    prompts: Prompts = BUILT_IN,
) -> Answer[list[float]]:
    """Probabilities of the ratings 1..5 for how well ``answer`` fits the persona."""
    prompt = prompts.render(
        "evaluation/prompts/score.jinja",
        profile=persona.profile,
        personality=persona.personality,
        history=history,
        reply=answer,
    )
    request = Request(
        [{"role": "user", "content": prompt}],
        choices=_RATING,
        options=prompts.options("evaluation", _RATING),
        met=persona.met(answer),
    )
    return await ask(engine, "judge", request, _probabilities, tries, seed)


def _with_plan(last: Message, persona: Persona, step: Step, prompts: Prompts) -> Message:
    """The last message that a model reads as user, with what it is to say next."""
    wish = CHECKS[step.hint].words if step.hint else ""
    plan = prompts.render(
        "dialogue/prompts/user_plan.jinja", topic=step.topic, wish=wish, praise=step.praise
    )
    return {"role": last["role"], "content": f"{last['content']}\n\n{plan}"}


def _exact_notes(steps: Sequence[Step]) -> dict[str, list[str]]:
    """What has been hinted at, as an inducer writes it down."""
    return {"profile": [], "personality": [CHECKS[kind].note for kind in hinted(steps)]}


def _induction_schema(language: Language) -> dict[str, Any]:
    if language == ENGLISH:
        return INDUCTION_SCHEMA
    note = {"type": "string", "minLength": _SHORTEST, "maxLength": _LONGEST}
    return INDUCTION_SCHEMA | {"properties": dict.fromkeys(_NOTED, _FACTS | {"items": note})}


def expected_score(probabilities: Sequence[float]) -> float:
    """Expected rating in [1, 5]."""
    return sum(rating * p for rating, p in enumerate(probabilities, start=1))


def _sampled(messages: list[Message], sampling: Sampling) -> Request:
    return Request(
        messages, sampling.max_tokens, sampling.temperature, sampling.top_p, stop=sampling.stop
    )


def _message(completion: Completion) -> str:
    if not completion.text.strip():
        raise MalformedAnswer("an empty message")
    return completion.text


def _user_message(completion: Completion, language: str) -> str:
    message = user_message(_message(completion), MAX_SENTENCES, language)
    if not message:
        raise MalformedAnswer(f"no message in {completion.text!r:.80}")
    return message


def _probabilities(completion: Completion) -> list[float]:
    if not completion.choice_logprobs:
        raise MalformedAnswer(why_undecided(completion))
    return [math.exp(value) for value in completion.choice_logprobs.values()]


def _induced(completion: Completion) -> Induced:
    try:
        value = object_in(completion.text, _NOTED)
        facts = {key: _facts(value[key]) for key in _NOTED}
    except (ValueError, TypeError, AttributeError) as error:
        raise MalformedAnswer(
            f"inducer: not the JSON asked for: {completion.text!r:.80}"
        ) from error
    return Induced(facts["profile"] or None, facts["personality"] or None)


def _facts(noted: Any) -> str:
    """A list of facts as one text; without a schema some write a single fact, or null."""
    facts = [noted] if isinstance(noted, str) else noted or []
    return "; ".join(dict.fromkeys(text.strip() for text in facts if text.strip()))
