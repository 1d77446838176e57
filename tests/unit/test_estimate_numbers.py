"""What an estimate multiplies: counts by configuration, numbers by what was held."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aloe.config import DialogueConfig, PersonasConfig, PpoConfig
from aloe.dialogue.branches import branches_after, branches_by_turn, turn_of, turns_per_tree
from aloe.estimate import numbers
from aloe.estimate.numbers import Range, hours, of_tree, requests_needed, spread
from aloe.estimate.stages import episodes_of
from aloe.personas.pairing import Member, count_personas, pair_pools

shapes = st.builds(
    DialogueConfig,
    turns=st.integers(1, 6),
    branching=st.sampled_from(["spine", "both"]),
    samples=st.integers(1, 2),
    max_nodes=st.integers(5, 200),
)


@given(shapes)
def test_branches_by_turn_are_those_that_a_tree_grows(config):
    grown, open_now = [], [1]
    while open_now:
        grown += open_now
        open_now = [after for branch in open_now for after in branches_after(branch, config)]
    by_turn = [sum(1 for branch in grown if turn_of(branch) == t + 1) for t in range(config.turns)]
    assert branches_by_turn(config) == [count for count in by_turn if count]
    assert sum(branches_by_turn(config)) == turns_per_tree(config)


@given(
    st.integers(3, 9), st.integers(3, 9), st.integers(1, 2), st.integers(1, 2), st.integers(1, 9)
)
def test_personas_are_counted_as_they_are_paired(profiles, traits, held_p, held_t, each):
    config = PersonasConfig(
        writer="w",
        profiles={"size": profiles},
        personalities={"size": traits},
        heldout_profiles=held_p,
        heldout_personalities=held_t,
        personalities_per_profile=each,
        max_personas=each * 3,
    )
    pools = [
        [Member(f"{kind}{number}", f"{kind} {number}.") for number in range(size)]
        for kind, size in (("a", profiles), ("b", traits))
    ]
    personas = pair_pools(*pools, config, 0.1, 1)
    benchmark = sum(persona.split == "benchmark" for persona in personas)
    sizes = {"profile": profiles, "personality": traits}
    assert count_personas(sizes, config) == (len(personas) - benchmark, benchmark)


def call(role: str, prompt: int, seconds: float = 1.0) -> dict:
    return {
        "role": role,
        "tries": 1,
        "prompt_tokens": prompt,
        "completion_tokens": 1,
        "cost_usd": 0.5,
        "seconds": seconds,
    }


def test_a_spine_stands_for_all_branches_of_a_tree():
    rows = [
        {"turn": turn, "branch": 2 ** (turn - 1), "calls": [call("user", 10 * turn, 2.0)]}
        for turn in (1, 2, 3)
    ]
    tree = of_tree(rows, [1, 2, 4])
    assert tree[numbers.CALLS] == 7
    assert tree[numbers.PROMPT] == 10 + 2 * 20 + 4 * 30
    assert tree[numbers.USD] == 3.5
    assert tree[numbers.PATH] == 6
    assert tree[numbers.BUSY] == 14


def test_a_turn_takes_as_long_as_its_longest_chain():
    calls = [
        call("user", 1, 1.0),
        call("inducer", 1, 2.0),
        call("unguided", 1, 2.5),
        call("guided", 1, 3.0),
        call("judge", 1, 0.25),
        call("judge", 1, 0.5),
    ]
    tree = of_tree([{"turn": 1, "branch": 1, "calls": calls}], [1])
    assert tree[numbers.PATH] == tree[numbers.BUSY] == 1 + 2 + 3 + 0.5


@given(st.lists(st.integers(1, 1000), min_size=2, max_size=5), st.integers(1, 10_000))
@settings(deadline=None, max_examples=20)
def test_a_range_lies_within_all_as_the_cheapest_and_all_as_the_dearest(tokens, left):
    sample = np.array([[1, n, 1, 0, 1, 1] for n in tokens], dtype=float)
    found = spread([sample], 1, lambda drawn: left * drawn[0].mean(axis=0))
    prompt = found[numbers.PROMPT]
    assert prompt.value == pytest.approx(left * np.mean(tokens))
    assert left * min(tokens) <= prompt.low * 1.000001
    assert prompt.high <= left * max(tokens) * 1.000001
    assert prompt.low <= prompt.value * 1.000001
    assert found[numbers.CALLS] == Range(left, left, left)


def test_three_trees_span_from_the_cheapest_to_the_dearest():
    sample = np.array([[1.0, tokens, 0, 0, 0, 0] for tokens in (100, 150, 260)])
    prompt = spread([sample], 1, lambda drawn: 10 * drawn[0].mean(axis=0))[numbers.PROMPT]
    assert (prompt.low, prompt.high) == (1000, 2600)


def test_of_a_single_item_there_is_no_range():
    found = spread([np.ones((1, 6))], 1, lambda drawn: 5 * drawn[0].mean(axis=0))
    assert found[0] == Range(5.0, None, None)


def test_requests_go_on_until_the_pool_is_full_or_may_not_grow():
    assert requests_needed(np.array([2.0, 4.0]), wanted=30, most=100) == 10
    assert requests_needed(np.array([2.0, 4.0]), wanted=3000, most=100) == 100
    assert requests_needed(np.array([0.0, 0.0]), wanted=1, most=100) == 100


def test_hours_are_between_all_at_once_and_no_more_than_in_the_probe():
    fast, slow = hours(100, 3600, 3600, at_once=20, engines=2, probed_at_once=3)
    assert fast == 5
    assert slow == pytest.approx(100 / 6)
    assert hours(4, 3600, 3600, at_once=20, engines=9, probed_at_once=3) == (1, 1)


@pytest.mark.parametrize(("updates", "eval_steps"), itertools.product((1, 4, 5), (None, 1, 2)))
def test_episodes_are_those_of_updates_and_looks(updates, eval_steps):
    options = PpoConfig(
        updates=updates, batch_size=8, eval_steps=eval_steps, eval_dialogues=3, estimator="gae"
    )
    looks = 1
    for step in range(1, updates + 1):  # as the controller goes
        looks += step == updates or (eval_steps is not None and step % eval_steps == 0)
    assert episodes_of(options) == 8 * updates + 3 * looks
