"""Progress of long work: what is counted, at which rate, and what a person gets to read."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aloe import progress
from aloe.progress import Meter, excerpt, meter, on_phase, phase

STEPS = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 9), st.integers(0, 4)), max_size=30)


@given(STEPS, st.integers(1, 5))
def test_turns_never_fall_behind_finished_items_nor_run_ahead_of_all(steps, each):
    total = sum(items for items, _, _ in steps) + 3
    count = Meter("trees", total, 0, each)
    before = 0
    for items, tokens, turns in steps:
        count.advance(items, tokens, turns)
        assert count.done * each <= count.turns <= total * each
        assert count.turns >= before
        before = count.turns
    assert count.tokens == sum(tokens for _, tokens, _ in steps)


def test_trees_that_are_all_open_move_by_turns():
    count = Meter("dialogue trees", 30, 0, 3)
    count.advance(0, 40, 6)
    assert count.count() == "0/30, turns 6/90"
    assert "s left" in count.line() and "unknown" not in count.line()
    assert count.fields()["turns"] == 6


def test_without_turns_items_are_counted():
    count = Meter("benchmark cases", 4, done=1)
    count.advance(2, 0, 5)
    assert count.count() == "3/4"
    assert "turns" not in count.line() and "turns" not in count.fields()


def test_an_item_that_fails_early_still_fills_its_part():
    count = Meter("trees", 2, 0, 10)
    count.advance(0, 0, 3)
    count.advance(1, 0, 0)  # it ended after three turns
    assert count.turns == 10


def test_machines_get_json(capsys, monkeypatch):
    monkeypatch.setattr(progress, "_json_lines", True)
    with meter("trees", 2, 0, 2) as advance:
        advance(2, 7)
    first, last = map(json.loads, capsys.readouterr().out.splitlines())
    assert (first["done"], first["turns_total"]) == (0, 4)
    assert (last["done"], last["turns"], last["tokens"]) == (2, 4, 7)


@given(st.text())
def test_what_a_model_said_is_one_harmless_line(text):
    line = excerpt(text, 40)
    assert len(line) <= 40
    assert all(sign.isprintable() for sign in line)


@pytest.mark.parametrize("text", ["plain words", "日本語 и кириллица 🙂"])
def test_words_stay_as_they_are(text):
    assert excerpt(text) == text
    assert excerpt(f"\x1b[31m{text}\n\x07") == f"[31m{text}"


def test_phases_reach_who_listens(monkeypatch):
    monkeypatch.setattr(progress, "_take_phase", progress._take_phase)
    heard: list[str] = []
    phase("nobody hears this")
    on_phase(heard.append)
    phase("loading weights")
    assert heard == ["loading weights"]
