from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aloe.personas.filter import SimilarityFilter, cosine

# Unit (or zero) vectors whose cosines are multiples of 1/4 and exact in float32: ties happen.
HALVES = [np.array(v, np.float32) / 2 for v in np.ndindex(3, 3, 3, 3)]
EXACT = [v - 0.5 for v in HALVES if np.all(np.abs(v - 0.5) == 0.5)]
EXACT += [sign * axis for axis in np.eye(4, dtype=np.float32) for sign in (1, -1)]
EXACT += [np.zeros(4, np.float32)]


def exact_cosine(one, other):
    """In rational numbers, rounded at the end."""
    products = (Fraction(float(a)) * Fraction(float(b)) for a, b in zip(one, other, strict=True))
    return np.float32(float(sum(products, Fraction(0))))


def one_by_one(candidates, threshold):
    """The definition: compare with every member, join at once."""
    pool, kept, highest = [], [], []
    for candidate in candidates:
        top = max((exact_cosine(candidate, member) for member in pool), default=np.float32(-1))
        highest.append(top)
        kept.append(bool(top <= np.float32(threshold)))
        if kept[-1]:
            pool.append(candidate)
    return np.array(kept), np.array(highest), pool


def run(candidates, threshold, batch, cuts=()):
    similarity_filter = SimilarityFilter(threshold, candidates.shape[1], batch)
    results = [similarity_filter.accept(part) for part in np.split(candidates, sorted(cuts))]
    kept = np.concatenate([kept for kept, _ in results])
    cosines = np.concatenate([cosines for _, cosines in results])
    return kept, cosines, similarity_filter.embeddings


def check(candidates, threshold, batch, cuts=(), tolerance=0.0):
    """Kept set and pool as defined; cosines as documented."""
    kept, cosines, pool = run(candidates, threshold, batch, cuts)
    wanted_kept, wanted_highest, wanted_pool = one_by_one(candidates, threshold)
    assert kept.tolist() == wanted_kept.tolist()
    assert np.array_equal(pool, np.reshape(wanted_pool, pool.shape))
    assert (cosines <= np.float32(threshold)).tolist() == kept.tolist()
    assert cosines[kept] == pytest.approx(wanted_highest[kept], abs=tolerance)
    assert np.all(cosines <= wanted_highest + tolerance)


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


def neighbours(rng, count, width, groups=3, spread=0.3):
    """Unit vectors around a few directions, so that many cosines lie close together."""
    centres = unit(rng.normal(size=(groups, width)))
    noise = spread * rng.normal(size=(count, width)) / np.sqrt(width)
    return unit(centres[rng.integers(groups, size=count)] + noise)


@settings(max_examples=300, deadline=None)
@given(
    picks=st.lists(st.sampled_from(range(len(EXACT))), min_size=1, max_size=40),
    threshold=st.sampled_from([-1.0, -0.5, 0.0, 0.25, 0.5, 0.75, 1.0]),
    batch=st.integers(1, 9),
    cut=st.integers(0, 40),
)
def test_accepts_what_the_definition_accepts_ties_included(picks, threshold, batch, cut):
    check(np.stack([EXACT[pick] for pick in picks]), threshold, batch, [cut])


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    count=st.integers(2, 40),
    width=st.sampled_from([1, 2, 8, 33, 384]),
    batch=st.integers(1, 45),
    cuts=st.lists(st.integers(0, 40), max_size=3),
    nudge=st.integers(-2, 2),
)
def test_accepts_what_the_definition_accepts_with_a_pair_at_the_threshold(
    seed, count, width, batch, cuts, nudge
):
    """The threshold is the cosine of some pair, or a float32 or two beside it."""
    rng = np.random.default_rng(seed)
    candidates = neighbours(rng, count, width)
    first, second = rng.choice(count, 2, replace=False)
    threshold = exact_cosine(candidates[first], candidates[second])
    for _ in range(abs(nudge)):
        threshold = np.nextafter(threshold, np.float32(nudge))
    check(candidates, float(threshold), batch, cuts, tolerance=1e-4)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    threshold=st.floats(-0.875, 0.875, width=32),
    batch=st.integers(1, 40),
)
def test_accepts_what_the_definition_accepts_when_all_are_at_the_threshold(seed, threshold, batch):
    """Members, and vectors that miss the threshold to one of them by rounding alone; repeats."""
    rng = np.random.default_rng(seed)
    members = np.linalg.qr(rng.normal(size=(64, 6)))[0].T
    away = rng.normal(size=(24, 64))
    away -= away @ members.T @ members
    beside = threshold * members[rng.integers(6, size=24)]
    beside += np.sqrt(1 - threshold**2) * away / np.linalg.norm(away, axis=1, keepdims=True)
    candidates = unit(np.concatenate([members, beside]))
    order = rng.permutation(np.concatenate([np.arange(30), rng.integers(30, size=10)]))
    check(candidates[order], threshold, batch, tolerance=1e-5)


def test_the_kept_set_is_the_same_for_every_batch_size_at_size():
    rng = np.random.default_rng(4)
    candidates = neighbours(rng, 3000, 384, groups=40, spread=0.8)
    # 0.6 up to rounding: the product alone would decide these by its shape.
    tied = rng.choice(3000, 500)
    away = rng.normal(size=(500, 384)).astype(np.float32)
    away -= (away * candidates[tied]).sum(axis=1, keepdims=True) * candidates[tied]
    candidates = np.concatenate([candidates, unit(0.6 * candidates[tied] + 0.8 * unit(away))])
    runs = [run(candidates, 0.6, batch) for batch in (1, 7, 256, 1024, 5000)]
    assert 100 < runs[0][0].sum() < 3000
    for kept, _, pool in runs[1:]:
        assert np.array_equal(kept, runs[0][0])
        assert np.array_equal(pool, runs[0][2])


@given(st.integers(0, 2**31), st.integers(1, 50))
def test_cosine_is_exact_up_to_one_rounding(seed, width):
    one, other = unit(np.random.default_rng(seed).normal(size=(2, width)))
    assert cosine(one, other) == exact_cosine(one, other) == cosine(other, one)
    assert cosine(one[::-1], other[::-1]) == cosine(one, other)


def test_a_duplicate_is_refused_and_a_zero_vector_is_similar_to_nothing():
    axis, zero = np.eye(3, dtype=np.float32)[0], np.zeros(3, np.float32)
    kept, cosines, _ = run(np.stack([axis, axis, zero, zero]), 0.6, 4)
    assert kept.tolist() == [True, False, True, True]
    assert cosines.tolist() == [-1, 1, 0, 0]


def test_added_members_count_without_a_comparison():
    similarity_filter = SimilarityFilter(0.6, 3, batch=2)
    similarity_filter.add(np.ones((5, 3), np.float32) / np.float32(np.sqrt(3)))
    assert len(similarity_filter) == 5
    kept, _ = similarity_filter.accept(np.eye(3, dtype=np.float32))
    assert kept.tolist() == [True, True, True]
    assert similarity_filter.embeddings.shape == (8, 3)


def test_a_pool_taken_up_again_goes_on_as_the_first_one():
    candidates = neighbours(np.random.default_rng(1), 300, 16, groups=20, spread=0.7)
    first = SimilarityFilter(0.6, 16, batch=32)
    first.accept(candidates[:200])
    second = SimilarityFilter(0.6, 16, batch=32)
    second.add(first.embeddings)
    for one, other in zip(
        first.accept(candidates[200:]), second.accept(candidates[200:]), strict=True
    ):
        assert np.array_equal(one, other)


def test_nothing_to_accept():
    kept, cosines = SimilarityFilter(0.6, 3).accept(np.empty((0, 3), np.float32))
    assert (len(kept), len(cosines)) == (0, 0)


@pytest.mark.parametrize(("value", "length"), [(2.0, "2"), (np.nan, "nan")])
def test_a_row_that_is_no_unit_vector_is_named(value, length):
    rows = np.eye(3, dtype=np.float32)
    rows[1, 1] = value
    for use in (SimilarityFilter(0.6, 3).accept, SimilarityFilter(0.6, 3).add):
        with pytest.raises(ValueError, match=rf"embedding 1: .* length {length}$"):
            use(rows)
