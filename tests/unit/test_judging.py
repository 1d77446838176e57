"""Votes: how answers in words are read, when they are asked for, and what they come to."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

import pytest

from aloe.config import JudgeConfig, ScriptedModel
from aloe.engines import Completion, Request
from aloe.engines.judging import Judge, read_vote, share_variance, votes_of, why_undecided
from aloe.engines.scripted import ScriptedEngine
from aloe.errors import CallFailed, MalformedAnswer, WorldFault
from aloe.roles import Persona, prefer

BEEKEEPER = Persona("p", "Keeps bees.", "Dry.")
QUESTION = Request([{"role": "user", "content": "Which?"}], choices=("1", "2"), seed=4)


@pytest.mark.parametrize(
    ("text", "vote"),
    [
        ("1", "1"),
        (" 2.", "2"),
        ("**2**", "2"),
        ("I would say 1.", "1"),
        ("Reply 1, since reply 1 is short.", "1"),
        ("2, as reply 1 is long.", "2"),
        ("Both 1 and 2.", None),
        ("12", None),
        ("", None),
        ("Neither.", None),
    ],
)
def test_a_vote_is_read_from_words(text, vote):
    assert read_vote(text, ("1", "2")) == vote


@pytest.mark.parametrize(
    ("text", "vote"), [("4/5", "4"), ("I give it 3 out of 5.", "3"), ("5/5", "5"), ("5", "5")]
)
def test_a_scale_is_no_vote(text, vote):
    assert read_vote(text, ("1", "2", "3", "4", "5")) == vote


class Told(ScriptedEngine):
    """Answers what it is told to, and keeps what it was asked."""

    def __init__(self, answer: Callable[[Request, int], Completion]) -> None:
        super().__init__("told", ScriptedModel(backend="scripted"))
        self._told, self.asked = answer, list[Request]()

    async def complete(self, request: Request) -> Completion:
        self.asked.append(request)
        return self._told(request, len(self.asked))


def answered(text: str, logprobs: dict[str, float] | None = None, given: bool = True) -> Completion:
    return Completion(
        text, "told", "stop", 10, 5, 2, 0.5, choice_logprobs=logprobs or {}, with_logprobs=given
    )


def judge(engine: Told, **settings) -> Completion:
    return asyncio.run(Judge(engine, JudgeConfig(**settings)).complete(QUESTION))


def test_log_probs_are_taken_where_there_are_some():
    engine = Told(lambda request, number: answered("1", {"1": -0.1, "2": -2.4}))
    assert judge(engine).choice_logprobs == {"1": -0.1, "2": -2.4}
    assert engine.asked == [QUESTION]


def test_an_answer_in_words_is_asked_again_with_the_choices_stated():
    def answer(request: Request, number: int) -> Completion:
        stated = "one of 1, 2 and nothing else" in request.messages[-1]["content"]
        return answered("1", {"1": -0.1, "2": -2.4}) if stated else answered("I say 1")

    engine = Told(answer)
    found = judge(engine)
    assert (len(engine.asked), found.prompt_tokens, found.completion_tokens) == (2, 20, 4)
    assert found.choice_logprobs


@pytest.mark.parametrize("settings", [{"by": "votes"}, {}], ids=["votes", "auto"])
def test_without_log_probs_answers_are_votes(settings):
    def answer(request: Request, number: int) -> Completion:
        return answered("2" if number % 4 == 2 else "It is 1.", given=False)

    engine = Told(answer)
    found = judge(engine, votes=8, **settings)
    votes = [request for request in engine.asked if not request.choices]
    assert len(votes) == 8 == len({request.seed for request in votes})
    assert {request.temperature for request in votes} == {1.0}
    assert math.exp(found.choice_logprobs["1"]) == pytest.approx(0.75)
    assert votes_of(found.finish_reason) == 8
    assert found.completion_tokens == 2 * len(engine.asked)
    assert share_variance(0.75, 8) == pytest.approx(0.75 * 0.25 / 7)


def test_a_server_without_log_probs_is_asked_for_them_once():
    engine = Told(lambda request, number: answered("1", given=False))
    one = Judge(engine, JudgeConfig(votes=2))

    async def ask_twice() -> None:
        await one.complete(QUESTION)
        await one.complete(QUESTION)

    asyncio.run(ask_twice())
    assert len(engine.asked) == 1 + 2 + 2


def test_log_probs_may_be_insisted_on():
    engine = Told(lambda request, number: answered("1", given=False))
    assert judge(engine, by="logprobs").choice_logprobs == {}
    assert len(engine.asked) == 1


def test_votes_that_cannot_be_read_are_no_verdict_and_are_told():
    engine = Told(lambda request, number: answered("1" if number == 1 else "Hm."))
    found = judge(engine, by="votes")
    assert found.choice_logprobs == {}
    assert why_undecided(found) == "1 of 8 votes name a choice"
    with pytest.raises(CallFailed, match="3 of 8 votes name a choice"):
        engine = Told(lambda request, number: answered("1" if number < 4 else "Hm."))
        asked = prefer(Judge(engine, JudgeConfig(by="votes")), BEEKEEPER, [], "a", "b", 1, seed=0)
        asyncio.run(asked)


@pytest.mark.parametrize("given", [True, False], ids=["log-probs", "none"])
def test_a_first_answer_that_can_be_read_counts_where_votes_cannot(given):
    def answer(request: Request, number: int) -> Completion:
        return answered("2" if request.choices else "Let me think of", given=given)

    found = judge(Told(answer), votes=4)
    assert (found.text, votes_of(found.finish_reason)) == ("2", 1)
    assert math.exp(found.choice_logprobs["2"]) == 1


def test_an_answer_without_log_probs_is_told_from_one_in_words():
    words = Told(lambda request, number: answered("Well"))
    assert why_undecided(judge(words, by="logprobs")) == "the judge's answer begins with no choice"
    none = Told(lambda request, number: answered("1", given=False))
    assert why_undecided(judge(none, by="logprobs")) == "the judge's answer has no log-probs"


def test_a_vote_may_fail_and_the_world_may_not():
    def failing(kind: Exception) -> Callable[[Request, int], Completion]:
        def answer(request: Request, number: int) -> Completion:
            if number == 3:
                raise kind
            return answered("1")

        return answer

    found = judge(Told(failing(MalformedAnswer("no"))), by="votes", votes=4)
    assert votes_of(found.finish_reason) == 3
    with pytest.raises(WorldFault):
        judge(Told(failing(WorldFault("quota", False))), by="votes", votes=4)
