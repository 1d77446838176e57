import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from aloe.evaluation.metrics import (
    alignment_level,
    improvement_rate,
    normalized_improvement_rate,
    normalized_levels,
    r_squared,
)

GOLDEN = np.array([62.16, 68.92, 70.27, 74.32, 72.97, 74.32, 75.68, 78.38, 77.03, 79.73])

levels = arrays(
    np.float64, st.integers(2, 20), elements=st.floats(1, 5, allow_nan=False, width=32)
).filter(lambda al: np.ptp(al) > 1e-3)
shifts = st.floats(-100, 100)
scales = st.floats(0.01, 100)


def test_golden_vector_of_the_paper():
    assert improvement_rate(GOLDEN) == pytest.approx(1.5811, abs=5e-5)
    assert normalized_improvement_rate(GOLDEN) == pytest.approx(0.0900, abs=5e-5)
    assert r_squared(GOLDEN) == pytest.approx(0.8546, abs=5e-5)


def test_alignment_level_is_the_mean_over_cases():
    scores = np.array([[1.0, 2.0, 3.0], [3.0, 4.0, 5.0]])
    assert alignment_level(scores).tolist() == [2.0, 3.0, 4.0]


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (3,), (2, 3, 4)])
def test_alignment_level_refuses_other_shapes(shape):
    with pytest.raises(ValueError, match="expected"):
        alignment_level(np.ones(shape))


@pytest.mark.parametrize("hole", [np.nan, np.inf])
def test_alignment_level_refuses_a_case_with_a_hole(hole):
    scores = np.ones((3, 4))
    scores[1, 2] = hole
    with pytest.raises(ValueError, match="leave its case out"):
        alignment_level(scores)


@pytest.mark.parametrize("value", [0.0, 3.0, -2.5])
def test_constant_level_has_slope_zero_and_nothing_normalised(value):
    al = np.full(10, value)
    assert improvement_rate(al) == 0.0
    assert normalized_levels(al) is None
    assert normalized_improvement_rate(al) is None
    assert r_squared(al) is None


def test_rounding_in_the_mean_does_not_make_a_constant_level_vary():
    rng = np.random.default_rng(0)
    column = rng.uniform(1, 5, size=1000)
    al = alignment_level(np.stack([rng.permutation(column) for _ in range(10)], axis=1))
    assert np.ptp(al) > 0  # summed in another order
    assert r_squared(al) is None


def test_constant_level_of_one_number_is_told_from_a_tiny_real_change():
    assert r_squared(np.array([3.0, 3.0 + 1e-6, 3.0 + 2e-6])) == pytest.approx(1.0)


@given(st.floats(-10, 10), st.floats(0.01, 10), st.integers(2, 20))
def test_a_rising_line_has_its_slope_and_fits_perfectly(start, slope, turns):
    al = start + slope * np.arange(1, turns + 1)
    assert improvement_rate(al) == pytest.approx(slope)
    assert normalized_improvement_rate(al) == pytest.approx(1 / (turns - 1))
    assert r_squared(al) == pytest.approx(1.0)


@given(levels)
def test_slope_is_that_of_numpys_least_squares(al):
    slope, _ = np.polyfit(np.arange(1, al.size + 1), al, 1)
    assert improvement_rate(al) == pytest.approx(slope, abs=1e-9)


@given(levels, shifts)
def test_shift_changes_neither_rate_nor_fit(al, shift):
    assert improvement_rate(al + shift) == pytest.approx(improvement_rate(al), abs=1e-9)
    assert normalized_improvement_rate(al + shift) == pytest.approx(
        normalized_improvement_rate(al), abs=1e-6
    )
    assert r_squared(al + shift) == pytest.approx(r_squared(al), abs=1e-6)


@given(levels, scales)
def test_scale_multiplies_the_rate_and_nothing_else(al, scale):
    assert improvement_rate(al * scale) == pytest.approx(improvement_rate(al) * scale, abs=1e-9)
    assert normalized_improvement_rate(al * scale) == pytest.approx(
        normalized_improvement_rate(al), abs=1e-9
    )
    assert r_squared(al * scale) == pytest.approx(r_squared(al), abs=1e-9)


@given(levels)
def test_normalised_rate_is_the_rate_over_the_span(al):
    normalized = normalized_levels(al)
    assert normalized is not None
    assert (normalized.min(), normalized.max()) == (0.0, 1.0)
    assert normalized_improvement_rate(al) == pytest.approx(
        improvement_rate(al) / (al.max() - al.min()), abs=1e-9
    )


@given(levels)
def test_reversed_turns_turn_the_sign_and_keep_the_fit(al):
    assert improvement_rate(al[::-1]) == pytest.approx(-improvement_rate(al), abs=1e-9)
    assert r_squared(al[::-1]) == pytest.approx(r_squared(al), abs=1e-9)


@given(levels)
def test_fit_is_the_squared_correlation_and_within_bounds(al):
    fit = r_squared(al)
    assert fit is not None and 0.0 <= fit <= 1.0
    assert fit == pytest.approx(np.corrcoef(np.arange(al.size), al)[0, 1] ** 2, abs=1e-6)


@given(levels, st.randoms(use_true_random=False))
def test_order_of_cases_does_not_matter(al, random):
    assume(al.size <= 10)
    scores = [list(al + random.uniform(-0.5, 0.5)) for _ in range(5)]
    shuffled = random.sample(scores, len(scores))
    assert alignment_level(np.array(scores)) == pytest.approx(alignment_level(np.array(shuffled)))
