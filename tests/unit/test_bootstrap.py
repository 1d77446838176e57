import numpy as np
import pytest

from aloe.evaluation import bootstrap
from aloe.evaluation.bootstrap import Estimate, resample
from aloe.evaluation.metrics import improvement_rate, normalized_improvement_rate, r_squared


def mean(al):
    return float(al.mean())


@pytest.fixture
def scores():
    """(40 cases, 10 turns) around a rising line, with a case effect over all turns."""
    rng = np.random.default_rng(7)
    case = rng.normal(0, 0.5, size=(40, 1))
    return 2.5 + 0.1 * np.arange(10) + case + rng.normal(0, 0.3, size=(40, 10))


def test_value_is_the_statistic_of_the_observed_cases(scores):
    estimate = resample(scores, 500, seed=0).estimate(improvement_rate)
    assert estimate.value == improvement_rate(scores.mean(axis=0))
    assert estimate.low < estimate.value < estimate.high
    assert estimate.undefined == 0


def test_same_seed_same_interval_other_seed_another(scores):
    first, again, other = (resample(scores, 200, seed).estimate(mean) for seed in (1, 1, 2))
    assert first == again
    assert (other.low, other.high) != (first.low, first.high)


def test_result_does_not_depend_on_how_many_are_drawn_at_once(scores, monkeypatch):
    whole = resample(scores, 300, seed=3).drawn
    monkeypatch.setattr(bootstrap, "_CHUNK_INDICES", scores.size * 7)
    assert np.array_equal(resample(scores, 300, seed=3).drawn, whole)


def test_interval_grows_with_confidence(scores):
    drawn = resample(scores, 1000, seed=0)
    narrow, wide = drawn.estimate(mean, 0.8), drawn.estimate(mean, 0.99)
    assert wide.low < narrow.low < narrow.high < wide.high


def test_interval_of_a_normal_mean_is_the_textbook_one():
    values = np.random.default_rng(0).normal(3.0, 1.0, size=400)
    scores = np.repeat(values[:, None], 2, axis=1)
    estimate = resample(scores, 4000, seed=0).estimate(mean, 0.95)
    half = 1.96 * values.std(ddof=1) / np.sqrt(400)
    assert estimate.low == pytest.approx(values.mean() - half, abs=0.01)
    assert estimate.high == pytest.approx(values.mean() + half, abs=0.01)


def test_ninety_percent_intervals_cover_a_known_mean_nine_times_in_ten():
    rng = np.random.default_rng(5)
    trials, covered = 400, 0
    for trial in range(trials):
        scores = np.repeat(rng.normal(3.0, 1.0, size=(60, 1)), 2, axis=1)
        estimate = resample(scores, 300, seed=trial).estimate(mean, 0.9)
        covered += estimate.low <= 3.0 <= estimate.high
    assert covered / trials == pytest.approx(0.9, abs=0.04)


def test_paired_difference_cancels_what_the_cases_share(scores):
    better = scores + 0.2 + np.random.default_rng(1).normal(0, 0.02, size=scores.shape)
    base, other = resample(scores, 500, seed=9), resample(better, 500, seed=9)
    paired = other.difference(base, mean)
    alone = base.estimate(mean)
    assert paired.value == pytest.approx(better.mean() - scores.mean())
    assert 0.15 < paired.low < paired.high < 0.25
    assert paired.high - paired.low < (alone.high - alone.low) / 10


def test_difference_to_itself_is_exactly_zero(scores):
    drawn = resample(scores, 100, seed=0)
    assert drawn.difference(drawn, improvement_rate) == Estimate(0.0, 0.0, 0.0)


def test_undefined_statistic_has_neither_value_nor_interval():
    drawn = resample(np.full((5, 4), 3.0), 100, seed=0)
    estimate = drawn.estimate(normalized_improvement_rate)
    assert estimate == Estimate(None, None, None, undefined=100)
    assert drawn.difference(drawn, r_squared).as_dict() == {
        "value": None,
        "low": None,
        "high": None,
    }


def test_undefined_resamples_are_counted_and_left_out():
    scores = np.array([[3.0, 3.0, 3.0], [3.0, 3.0, 3.0], [2.0, 3.0, 4.0]])
    estimate = resample(scores, 1000, seed=0).estimate(r_squared)
    # A resample without the third case is constant: (2/3)^3 of them.
    assert estimate.undefined / 1000 == pytest.approx(8 / 27, abs=0.05)
    assert (estimate.low, estimate.high) == (pytest.approx(1.0), pytest.approx(1.0))


def test_single_case_has_a_value_but_no_interval():
    estimate = resample(np.array([[1.0, 2.0, 4.0]]), 100, seed=0).estimate(improvement_rate)
    assert estimate == Estimate(1.5, None, None)
