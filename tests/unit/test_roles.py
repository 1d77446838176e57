import asyncio
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aloe.config import Sampling, ScriptedModel
from aloe.engines import Completion, Request
from aloe.engines.scripted import ScriptedEngine
from aloe.errors import CallFailed, MalformedAnswer
from aloe.roles import (
    Induced,
    Persona,
    Preference,
    ask,
    expected_score,
    induce,
    policy_messages,
    prefer,
    say_user,
    score,
)
from aloe.roles.text import clean_message

PERSONA = Persona("p", "Keeps bees in Ghent.", "Dry and curious.")
HISTORY = [{"role": "user", "content": "The hive is loud today."}]


@pytest.fixture
def engine():
    return ScriptedEngine("script", ScriptedModel(backend="scripted"))


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("*waves* Hello there!", "Hello there!"),
        ("User: I baked bread.", "I baked bread."),
        ('"Sure thing."', "Sure thing."),
        ("One. Two! Three? Four.", "One. Two! Three?"),
        ("Done. And then I wen", "Done."),
        ("no full stop at all", "no full stop at all"),
        ("First part.\n\nUser: invented turn", "First part."),
        ("It costs 3.50 euros. Fine.", "It costs 3.50 euros. Fine."),
        ("He said “no.” I left.", "He said “no.” I left."),
    ],
)
def test_messages_are_cleaned(raw, clean):
    assert clean_message(raw, 3) == clean


@pytest.mark.parametrize("raw", ["", "   ", "*sighs*", "...", "User:"])
def test_nothing_said_is_malformed(raw):
    with pytest.raises(MalformedAnswer):
        clean_message(raw, 3)


@given(st.text())
def test_clean_messages_stay_clean(raw):
    try:
        message = clean_message(raw, 3)
    except MalformedAnswer:
        return
    assert message == message.strip()
    assert "\n" not in message
    assert len(message) <= len(raw)


def test_the_hint_comes_last_and_leaves_the_prefix_alone():
    plain = policy_messages(HISTORY)
    hinted = policy_messages(HISTORY, Induced("keeps bees", None))
    assert hinted[:-1] == plain[:-1]
    assert hinted[-1]["content"].startswith(plain[-1]["content"])
    assert "keeps bees" in hinted[-1]["content"]
    assert policy_messages(HISTORY, Induced(None, None)) == plain


def test_the_user_hears_the_conversation_from_the_other_side():
    class Listening(ScriptedEngine):
        async def complete(self, request):
            self.heard = request.messages
            return await super().complete(request)

    listener = Listening("script", ScriptedModel(backend="scripted"))
    history = [*HISTORY, {"role": "assistant", "content": "Any swarm yet?"}]
    asyncio.run(say_user(listener, PERSONA, history, Sampling(), 1, 0))
    assert [m["role"] for m in listener.heard] == ["system", "user", "assistant", "user"]
    assert "Keeps bees" in listener.heard[0]["content"]
    assert listener.heard[-1]["content"] == "Any swarm yet?"


def test_judging_gives_probabilities(engine):
    first = asyncio.run(prefer(engine, PERSONA, HISTORY, "a", "b", 1, 0)).value
    assert 0 < first < 1
    ratings = asyncio.run(score(engine, PERSONA, HISTORY, "a", 1, 0)).value
    assert len(ratings) == 5
    assert math.isclose(sum(ratings), 1)
    assert 1 <= expected_score(ratings) <= 5


def test_expected_score_is_the_mean_rating():
    assert expected_score([0, 0, 0, 0, 1]) == 5
    assert expected_score([0.5, 0, 0, 0, 0.5]) == 3


def test_a_preference_knows_its_position_bias():
    biased = Preference(guided_first=0.8, guided_second=0.3)
    assert biased.guided == pytest.approx(0.55)
    assert not biased.agrees
    assert Preference(0.8, 0.7).agrees


@pytest.mark.parametrize(
    ("first", "second", "agrees", "preferred"),
    [
        (0.5, 0.5, False, None),
        (0.8, 0.2, False, None),
        (0.5, 0.2, False, False),
        (0.5, 0.8, False, True),
        (0.2, 0.3, True, False),
        (1.0, 0.0, False, None),
    ],
)
def test_a_tie_prefers_nothing_and_is_no_agreement(first, second, agrees, preferred):
    judged = Preference(first, second)
    assert (judged.agrees, judged.guided_preferred) == (agrees, preferred)


def test_induction_is_read_from_json(engine):
    note = asyncio.run(induce(engine, PERSONA, HISTORY, 100, 1, 0))
    assert note.value.profile is None or isinstance(note.value.profile, str)
    assert note.call["role"] == "inducer"


class Stubborn(ScriptedEngine):
    """Says something useless until its n-th answer."""

    def __init__(self, useless: int) -> None:
        super().__init__("stubborn", ScriptedModel(backend="scripted"))
        self.useless, self.seeds = useless, []

    async def complete(self, request: Request) -> Completion:
        self.seeds.append(request.seed)
        good = await super().complete(request)
        text = "{}" if len(self.seeds) <= self.useless else json.dumps({"ok": 1})
        return Completion(text, good.model, "stop", 10, 4, 2, 0.5)


def _read(completion: Completion) -> int:
    try:
        return json.loads(completion.text)["ok"]
    except KeyError as error:
        raise MalformedAnswer("no ok") from error


def test_tries_use_new_seeds_and_all_tokens_are_counted():
    engine = Stubborn(useless=2)
    answer = asyncio.run(ask(engine, "user", Request([]), _read, 3, 7))
    assert answer.value == 1
    assert len(set(engine.seeds)) == 3
    assert (answer.call["tries"], answer.call["prompt_tokens"]) == (3, 30)
    assert (answer.call["cached_tokens"], answer.call["seconds"]) == (12, 1.5)


def test_a_call_that_fails_for_good_tells_what_it_cost():
    with pytest.raises(CallFailed) as caught:
        asyncio.run(ask(Stubborn(useless=9), "judge", Request([]), _read, 3, 7))
    assert (caught.value.role, caught.value.kind) == ("judge", "MalformedAnswer")
    assert caught.value.call["completion_tokens"] == 6


class Greedy(ScriptedEngine):
    """As a model does, gives the same useless answer whenever it is asked greedily."""

    async def complete(self, request: Request) -> Completion:
        good = await super().complete(request)
        text = "{}" if request.temperature == 0 else json.dumps({"ok": request.seed})
        return Completion(text, good.model, "stop", 10, 4, 2, 0.5)


def test_a_greedy_answer_that_cannot_be_read_is_not_asked_for_again():
    engine = Greedy("greedy", ScriptedModel(backend="scripted"))
    answer = asyncio.run(ask(engine, "inducer", Request([], temperature=0), _read, 3, 7))
    assert answer.call["tries"] == 2
