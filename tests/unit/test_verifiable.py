"""Checkable preferences: drawn by seed, told in words, exact as a score."""

from __future__ import annotations

import asyncio
import math
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aloe.config import PreferenceKind, VerifiableConfig, VerifiableModel
from aloe.engines import Request
from aloe.engines.verifiable import VerifiableEngine
from aloe.errors import MalformedAnswer
from aloe.personas.liking import draw_preferences
from aloe.roles import Persona, expected_score, prefer, score
from aloe.roles.prompts import render
from aloe.verifiable import CHECKS, in_words, share_met

PROFILE = "Runs a bakery in Ghent and collects postcards."


def test_the_configuration_knows_all_kinds():
    assert set(CHECKS) == set(get_args(PreferenceKind))
    assert len(CHECKS) >= 10


@pytest.mark.parametrize(
    ("kind", "met", "missed"),
    [
        ("short", "Sounds good to me.", "word " * 20),
        ("long", "word " * 30, "Sounds good to me."),
        ("asks", "How was it?", "Tell me."),
        ("asks_nothing", "Tell me.", "How was it?"),
        ("exclaims", "Great!", "Great."),
        ("calm", "Great.", "Great!"),
        ("emoji", "Nice 😊", "Nice."),
        ("emoji", "Nice :)", "Nice: yes."),
        ("about_them", "You did your best.", "You did well."),
        ("own_stories", "I baked once.", "Tell me of it."),
        ("never_self", "Tell of it.", "I'm fine."),
        ("polite", "Thanks for telling.", "Tell on."),
        ("agrees", "Absolutely, bread is life.", "Bread is life, absolutely."),
        ("caring", "That sounds hard.", "Bread again."),
        ("figures", "Take 2 eggs.", "Take two eggs."),
        ("formal", "It is late.", "It's late."),
        ("casual", "It's late.", "It is late."),
        ("picks_up", "How is the bakery?", "How is work?"),
    ],
)
def test_each_kind_is_met_and_missed(kind, met, missed):
    assert share_met([kind], met, PROFILE) == 1
    assert share_met([kind], missed, PROFILE) == 0


@given(st.text(), st.lists(st.sampled_from(sorted(CHECKS)), unique=True))
def test_a_score_is_a_share(reply, kinds):
    share = share_met(kinds, reply, PROFILE)
    assert 0 <= share <= 1
    assert (share * len(kinds)) == pytest.approx(round(share * len(kinds)))


@given(st.integers(0, 50), st.integers(0, 20))
def test_drawn_by_seed_and_without_contradiction(seed, count):
    config = VerifiableConfig(count=count)
    drawn = [draw_preferences(f"p{number}", config, seed) for number in range(5)]
    assert drawn == [draw_preferences(f"p{number}", config, seed) for number in range(5)]
    for kinds in drawn:
        groups = [CHECKS[kind].group for kind in kinds]
        assert (
            len(groups) == len(set(groups)) == min(count, len({c.group for c in CHECKS.values()}))
        )


def test_personas_differ_and_stay_within_the_kinds_asked_for():
    config = VerifiableConfig(count=2, kinds=("asks", "exclaims", "emoji", "short"))
    drawn = {draw_preferences(f"p{number}", config, 0) for number in range(40)}
    assert len(drawn) == 6
    assert {kind for kinds in drawn for kind in kinds} == set(config.kinds)


def test_words_tell_all_and_the_simulator_may_not_say_them():
    kinds = ("short", "asks", "emoji")
    told = in_words(kinds)
    assert all(CHECKS[kind].words in told for kind in kinds)
    assert in_words(()) == ""
    persona = Persona("p", PROFILE, f"Calm. {told}", kinds)
    prompt = render("dialogue/prompts/user_system.jinja", persona=persona)
    assert told in prompt
    assert "Never say it outright" in prompt
    plain = render("dialogue/prompts/user_system.jinja", persona=Persona("p", PROFILE, "Calm."))
    assert "outright" not in plain


def judged(kinds: tuple[str, ...], *replies: str) -> list[float]:
    engine = VerifiableEngine("checks", VerifiableModel(backend="verifiable"))
    persona = Persona("p", PROFILE, "Calm.", kinds)
    if len(replies) == 2:
        return [asyncio.run(prefer(engine, persona, [], *replies, tries=1, seed=0)).value]
    return asyncio.run(score(engine, persona, [], replies[0], 1, 0)).value


def test_the_judge_prefers_the_reply_that_meets_more():
    kinds = ("asks", "exclaims")
    assert judged(kinds, "How?!", "How?") == [1.0]
    assert judged(kinds, "How?", "How?!") == [0.0]
    assert judged(kinds, "How?", "Oh!") == [0.5]


@given(st.integers(0, 4))
def test_the_rating_has_the_share_as_its_mean(met):
    kinds = ("asks", "exclaims", "emoji", "figures")
    reply = "ok " + " ".join(["?", "!", "😊", "7"][:met])
    ratings = judged(kinds, reply)
    assert sum(ratings) == pytest.approx(1)
    assert expected_score(ratings) == pytest.approx(1 + 4 * met / 4)


def test_a_share_between_ratings_keeps_its_mean():
    assert expected_score(judged(("asks", "exclaims", "emoji"), "How?")) == pytest.approx(1 + 4 / 3)


def test_it_can_only_judge():
    engine = VerifiableEngine("checks", VerifiableModel(backend="verifiable"))
    with pytest.raises(MalformedAnswer, match="only judges"):
        asyncio.run(engine.complete(Request([{"role": "user", "content": "hi"}])))
    answer = asyncio.run(engine.complete(Request([], choices=("1", "2"), met=(1.0, 0.0))))
    assert answer.text == "1"
    assert answer.choice_logprobs["2"] == -math.inf
