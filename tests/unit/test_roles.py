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
from aloe.roles.speak import reply
from aloe.roles.text import user_message

PERSONA = Persona("p", "Keeps bees in Ghent.", "Dry and curious.")
HISTORY = [{"role": "user", "content": "The hive is loud today."}]


@pytest.fixture
def engine():
    return ScriptedEngine("script", ScriptedModel(backend="scripted"))


@pytest.mark.parametrize(
    ("raw", "kept"),
    [
        ("*waves* Hello there!", "Hello there!"),
        ("Hello there! *waves*", "Hello there!"),
        ("*smiles warmly*\nHello there!", "Hello there!"),
        ("*Smiles warmly* Hello there!", "Hello there!"),
        ("*laughs softly* *nods* I know.", "I know."),
        ("Rain again. *looks out of the window*", "Rain again."),
        ("*softly laughs, then sighs* \U0001f600 No.", "\U0001f600 No."),
        ("*\u7b11* \u597d\u7684\u3002", "\u597d\u7684\u3002"),
        ("user: i baked bread.", "i baked bread."),
        ("You: I baked bread.", "I baked bread."),
        ("Hello.\n(laughs)\nWell.", "Hello.\nWell."),
        ("User: I baked bread.", "I baked bread."),
        ("**Me:** I baked bread.", "I baked bread."),
        ("Me\uff1a\u4f60\u597d\u3002", "\u4f60\u597d\u3002"),
        ('"Sure thing."', "Sure thing."),
        ("\u201cSure thing.\u201d", "Sure thing."),
        ("One. Two! Three? Four.", "One. Two! Three?"),
        ("\u4e00\u3002\u4e8c\uff01\u4e09\uff1f\u56db", "\u4e00\u3002\u4e8c\uff01\u4e09\uff1f"),
        (
            "\u0905\u0964 \u0906\u0964 \u0907\u0964 \u0908\u0964",
            "\u0905\u0964 \u0906\u0964 \u0907\u0964",
        ),
    ],
)
def test_the_simulators_framing_is_taken_off_a_users_message(raw, kept):
    assert user_message(raw, 3) == kept


@pytest.mark.parametrize(
    "said",
    [
        "I *love* that",
        "*Love* that song.",
        "*Love* Actually is my favourite film.",
        "*Middlemarch* (1871) is my favourite.",
        "*Middlemarch* \u2014 I read it thrice.",
        "*Dune* 2 was great.",
        '*1984* "Big Brother" scares me',
        "*Note* I left.",
        "*Smiles* Deeply is a song.",
        "*smiles* are free.",
        "*looks like* I won.",
        "*2*3*4 is 24",
        "*x* = 3 and *y* = 4",
        "My favourite film? *Arrival*",
        "Cats or dogs? *dogs*",
        "Why? *because*",
        "My favourite films:\n*Arrival*\n*Dune*",
        "Films:\n1. *Arrival*\n(Villeneuve)",
        "Sums:\n(a+b)\n(2*3)*4",
        "Which one? *This* one? (or that)",
        "She left. (laughs are rare)",
        "You: a novel by Caroline Kepnes is on my table.",
        "Friend: that is what she is to me.",
        "User: 12 is down again.",
        "2*3*4 is 24",
        "I met Dr. Smith yesterday and",
        "Done. And then I wen",
        "no full stop at all",
        "It costs 3.50 euros. Fine.",
        "He said \u201cno.\u201d I left.",
        '"Yes," she said, "and no."',
        "My list:\n\n- bread\n- milk",
        "Dr. Who, Mr. Bean, e.g. J. R. Smith. That is one.",
        "I told you: me: nobody.",
        "I went (with her) home.",
        "Is it 5 p.m. or later?",
        "\U0001f44d",
        "...",
    ],
)
def test_all_else_stays_as_it_was_said(said):
    assert user_message(said, 3) == said


@pytest.mark.parametrize("raw", ["", "   ", "*sighs*", "User:", '""'])
def test_a_user_who_says_nothing_is_asked_again(raw):
    engine = Says(raw)
    with pytest.raises(CallFailed) as failed:
        asyncio.run(say_user(engine, PERSONA, HISTORY, Sampling(), 3, 0))
    assert failed.value.kind == "MalformedAnswer" and failed.value.call["tries"] == 3


@given(st.text())
def test_a_users_message_is_part_of_what_was_said(raw):
    message = user_message(raw, 3)
    assert message == user_message(message, 3) or len(message) < len(raw)
    assert all(line.strip() in raw for line in message.split("\n"))


class Says:
    """An engine that says one thing, and thinks another."""

    def __init__(self, *texts: str, reasoning: str = "") -> None:
        self.texts, self.reasoning, self.asked = list(texts), reasoning, []

    async def complete(self, request):
        self.asked.append(request)
        text = self.texts[min(len(self.asked), len(self.texts)) - 1]
        return Completion(text, "says", "length", 1, 0, 1, 0.0, reasoning=self.reasoning)


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip))
def test_what_a_policy_says_is_kept_as_it_was_said(said):
    answer = asyncio.run(reply(Says(said), "policy", HISTORY, None, Sampling(), 1, 0))
    assert answer.value == said
    assert not answer.ended


def test_a_reply_that_is_all_thought_is_asked_again_with_more_tokens():
    engine = Says("", "Here.", reasoning="Hm.")
    answer = asyncio.run(reply(engine, "policy", HISTORY, None, Sampling(), 3, 0))
    assert (answer.value, answer.reasoning) == ("Here.", "Hm.")
    assert [request.thinks for request in engine.asked] == [False, True]


def test_so_is_a_note_that_is_all_thought():
    engine = Says("", '{"profile": ["keeps bees"], "personality": []}', reasoning="Hm.")
    note = asyncio.run(induce(engine, PERSONA, HISTORY, 100, 3, 0))
    assert note.value.profile == "keeps bees"
    assert [request.thinks for request in engine.asked] == [False, True]


def test_an_escape_in_a_note_that_is_no_character_can_be_written_down():
    engine = Says(r'{"profile": ["bees \ud83d"], "personality": ["calm \u0000 one"]}')
    note = asyncio.run(induce(engine, PERSONA, HISTORY, 100, 1, 0)).value
    assert (note.profile, note.personality) == ("bees \ufffd", "calm \ufffd one")


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
