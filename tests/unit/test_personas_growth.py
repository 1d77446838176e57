"""The state of one pool, with embeddings that are written into the texts: no model, no files."""

import json

import numpy as np
import pytest

from aloe.config import PersonasConfig
from aloe.personas.growth import START, GrowingPool, pool_of, undecided
from aloe.personas.rounds import (
    read_rounds,
    record_of,
    round_names,
    without_failed_end,
    write_round,
)
from aloe.storage import Store


def encode(texts):
    """ "axis 3" is the fourth unit vector of sixteen."""
    return np.eye(16, dtype=np.float32)[[int(text.split()[1]) for text in texts]]


def decide(pool, outcomes):
    return pool.decide(outcomes, [encode(undecided(each)) for each in outcomes])


def outcome(*axes, error=None):
    candidates = [{"text": f"axis {axis}", "verdict": ""} for axis in axes]
    return {"candidates": candidates, "error_kind": error, "error_message": error, "calls": []}


def settings(**changes):
    values = {
        "writer": "w",
        "profiles": {"size": 6},
        "personalities": {"size": 6},
        "shown": 2,
        "requests_per_round": 2,
    }
    return PersonasConfig.model_validate(values | changes)


def make_pool(**changes):
    return GrowingPool("profile", settings(**changes), seed=1)


@pytest.fixture
def pool():
    started = make_pool()
    decide(started, [outcome(0, 1), outcome(2)])
    return started


def verdicts(rows):
    return [entry["verdict"] for row in rows for entry in row["candidates"]]


def test_seeds_and_files_join_in_order_whatever_the_size(pool):
    assert pool.texts == ["axis 0", "axis 1", "axis 2"]
    small = make_pool(profiles={"size": 1})
    decide(small, [outcome(0, 1), outcome(2)])
    assert (len(small.texts), small.stopped()) == (3, "size")


def test_candidates_are_decided_in_request_order(pool):
    rows = decide(pool, [outcome(3, "1 again"), outcome(3, "3 again", 4)])
    assert verdicts(rows) == ["accepted", "similar", "repeated", "similar", "accepted"]
    assert pool.texts[3:] == ["axis 3", "axis 4"]


def test_marked_candidates_are_not_encoded(pool):
    marked = outcome()
    marked["candidates"] = [{"text": "no axis", "verdict": "garbled"}]
    assert verdicts(decide(pool, [marked, outcome()])) == ["garbled"]


def test_a_full_pool_takes_no_more(pool):
    rows = decide(pool, [outcome(3, 4, 5, 6, 7), outcome()])
    assert verdicts(rows) == ["accepted"] * 3 + ["surplus"] * 2
    assert pool.stopped() == "size"


def test_saturation_needs_its_rounds_and_counts_empty_ones():
    pool = make_pool(saturation_rounds=2, saturation_rate=0.3)
    decide(pool, [outcome(0), outcome()])
    decide(pool, [outcome(1, "0 b"), outcome()])
    assert pool.stopped() is None
    decide(pool, [outcome("0 c"), outcome()])
    assert pool.stopped() is None  # 1 of 3
    decide(pool, [outcome(), outcome()])
    assert pool.stopped() == "saturation"  # 0 of 1
    silent = make_pool(saturation_rounds=1)
    decide(silent, [outcome(0), outcome()])
    decide(silent, [outcome(), outcome()])
    assert silent.stopped() == "saturation"


def test_growth_stops_after_max_rounds():
    pool = make_pool(max_rounds=1)
    decide(pool, [outcome(0), outcome()])
    assert pool.stopped() is None
    decide(pool, [outcome(1), outcome()])
    assert pool.stopped() == "max_rounds"


def test_examples_are_members_drawn_by_seed_and_request(pool):
    assert pool.shown(0) == pool.shown(0)
    assert set(pool.shown(0)) <= set(pool.texts)
    assert len(pool.shown(0)) == 2
    seeds = {pool.request_seed(request) for request in range(20)}
    assert len(seeds) == 20


def test_a_replay_leads_to_the_same_state_and_decisions(tmp_path, pool):
    store = Store(str(tmp_path))
    first = make_pool()
    for outcomes in ([outcome(0, 1), outcome(2)], [outcome(3, "3 b"), outcome()]):
        write_round(store, decide(first, outcomes))
    rounds = read_rounds(store, round_names(store)["profile"])
    second = pool_of("profile", settings(), 1, rounds)
    assert (second.texts, second.round) == (first.texts, first.round)
    assert second.shown(0) == first.shown(0)
    after = [outcome("3 b", "3 c", 4), outcome("2 b")]
    again = json.loads(json.dumps(after))
    assert decide(second, after) == decide(first, again)


def test_rounds_come_back_in_order_and_a_failed_end_is_left_out(tmp_path):
    store, failed = Store(str(tmp_path)), outcome(error="EngineError")
    pool = make_pool()
    for outcomes in (
        [outcome(0), outcome(1)],
        [failed, failed],
        [outcome(2), failed],
        [failed, failed],
        [failed, failed],
    ):
        write_round(store, decide(pool, outcomes))
    names = round_names(store)["profile"]
    rounds = read_rounds(store, names)
    assert [rows[0]["round"] for rows in rounds] == [START, 0, 1, 2, 3]
    assert without_failed_end(store, names) == names[:3]
    assert without_failed_end(store, []) == []


def test_the_record_counts_every_request_and_tells_where_members_come_from(tmp_path):
    store, pool = Store(str(tmp_path)), make_pool()
    for outcomes in (
        [outcome(0), outcome(1)],
        [outcome(2, "2 b"), outcome()],
        [outcome(3, 4), outcome(error="EngineError")],
    ):
        write_round(store, decide(pool, outcomes))
    record = record_of(read_rounds(store, round_names(store)["profile"]))
    assert [(row["source"], row["round"]) for row in record.members] == [
        ("seed", START),
        ("file", START),
        ("model", 0),
        ("model", 1),
        ("model", 1),
    ]
    texts = [row["text"] for row in record.members]
    assert texts == pool.texts
    assert np.array_equal([row["embedding"] for row in record.members], encode(texts))
    assert (record.asked, record.verdicts) == (4, {"accepted": 3, "similar": 1})
    assert [(row["round"], row["request"]) for row in record.failed] == [(1, 1)]
