import math
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aloe.engines.backoff import Backoff, answered, begin, busy, seconds_to_wait

most = st.integers(1, 200)
outcomes = st.lists(
    st.tuples(st.sampled_from([answered, busy]), st.floats(0, 3), st.integers(1, 200)),
    max_size=300,
)


def run(state: Backoff, steps: list) -> list[Backoff]:
    """The states after calls that end one second apart, each sent up to 3 s before its end."""
    states = [state]
    for now, (outcome, age, in_flight) in enumerate(steps):
        last = in_flight if outcome is answered else now
        states.append(outcome(states[-1], now - age, last))
    return states


@given(most=most, steps=outcomes)
def test_the_limit_stays_between_one_and_the_most(most, steps):
    assert all(1 <= state.limit <= most for state in run(begin(most), steps))


@given(most=most, steps=outcomes)
def test_answers_never_lower_the_limit_and_refusals_never_raise_it(most, steps):
    states = run(begin(most), steps)
    for before, after, (outcome, _, _) in zip(states, states[1:], steps, strict=False):
        if outcome is answered:
            assert before.limit <= after.limit <= before.limit + 1
        else:
            assert after.limit in (before.limit, max(before.limit // 2, 1))


@given(most=most, refused=st.integers(1, 50))
def test_calls_refused_together_halve_once(most, refused):
    state = begin(most)
    for number in range(refused):
        state = busy(state, sent_at=0.0, now=1 + number / 100)
    assert state.limit == max(most // 2, 1)


@given(most=most, rounds=st.integers(1, 10))
def test_each_round_trip_that_is_refused_halves_again(most, rounds):
    state = begin(most)
    for number in range(rounds):
        state = busy(state, sent_at=number, now=number + 0.5)
    assert state.limit == max(most >> rounds, 1)


@given(most=most)
def test_a_limit_of_answers_grows_it_by_one(most):
    state = busy(begin(most), sent_at=0, now=1)
    for limit in range(state.limit, most):
        for _ in range(limit):
            assert state.limit == limit
            state = answered(state, sent_at=2, in_flight=limit)
    assert state.limit == most
    assert answered(state, sent_at=2, in_flight=most).limit == most


@given(most=st.integers(2, 200))
def test_answers_to_calls_from_before_the_halving_do_not_grow_it(most):
    state = busy(begin(most), sent_at=0, now=1)
    for _ in range(most):
        assert answered(state, sent_at=0.5, in_flight=most) == state


@given(most=st.integers(4, 200))
def test_a_limit_that_is_not_reached_does_not_grow(most):
    state = busy(begin(most), sent_at=0, now=1)
    for _ in range(most):
        assert answered(state, sent_at=2, in_flight=state.limit - 1) == state


@given(most=st.integers(4, 200))
def test_a_refusal_begins_the_count_of_answers_anew(most):
    state = busy(begin(most), sent_at=0, now=1)
    for _ in range(state.limit - 1):
        state = answered(state, sent_at=2, in_flight=state.limit)
    state = busy(state, sent_at=2, now=3)
    assert (state.limit, state.answers) == (most // 2 // 2, 0)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("3", 3),
        ("0.25", 0.25),
        ("-1", 0),
        ("inf", math.inf),
        ("nan", 0),
        ("", 0),
        ("soon", 0),
        (formatdate(1_000_090, usegmt=True), 90),
        (formatdate(999_000, usegmt=True), 0),
    ],
)
def test_a_retry_after_header_is_seconds_or_a_date(header, seconds):
    assert seconds_to_wait(header, unix_time=1_000_000) == seconds
