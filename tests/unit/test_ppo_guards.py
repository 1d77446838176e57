"""Guards: what a gamed reward looks like, and what is said and done about it."""

from __future__ import annotations

import pytest

from aloe.config import GuardsConfig, Limit
from aloe.errors import StageFailed
from aloe.training.ppo.guards import check, check_sync, parroting, repetition

PERSONA = {"profile": "Runs a bakery in Ghent.", "personality": "Patient, stubborn."}


def test_repetition_is_the_share_of_trigrams_that_came_before():
    assert repetition(["one two three four", "five six seven"]) == 0
    assert repetition(["one two three", "one two three"]) == 0.5
    assert repetition(["go go go go go go"]) == pytest.approx(3 / 4)
    assert repetition(["hi", ""]) == 0


def test_parroting_is_the_share_of_telling_words_that_are_the_personas():
    assert parroting(["Patient, stubborn bakery!"], PERSONA) == 1
    assert parroting(["Your bakery smells wonderful."], PERSONA) == pytest.approx(1 / 3)
    assert parroting(["in a"], PERSONA) == 0


def test_warns_and_stops(capsys):
    guards = GuardsConfig(
        length=Limit(warn=10, stop=20), entropy=Limit(warn=0.5, stop=0.1), kl=Limit()
    )
    check({"length": 9, "entropy": 1.0, "kl": 99.0, "other": 1.0}, guards, 1)
    assert capsys.readouterr().err == ""
    check({"length": 11, "entropy": 0.3}, guards, 2)
    told = capsys.readouterr().err
    assert "length is 11, beyond training.ppo.guards.length.warn = 10" in told.replace("\n", " ")
    assert "entropy is 0.3" in told
    with pytest.raises(StageFailed, match=r"length is 21, beyond .*length\.stop = 20"):
        check({"length": 21}, guards, 3)
    with pytest.raises(StageFailed, match=r"entropy is 0\.05"):
        check({"entropy": 0.05}, guards, 3)


def test_an_engine_with_other_weights_stops_the_run():
    check_sync(1e-9, 0.01, 1)
    for difference in (0.02, float("nan")):
        with pytest.raises(StageFailed, match=r"update 7: .*sync_limit = 0\.01"):
            check_sync(difference, 0.01, 7)
