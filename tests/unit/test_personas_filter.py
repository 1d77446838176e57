import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from aloe.personas.filter import SimilarityFilter

# Unit (or zero) vectors whose cosines are multiples of 1/4 and exact in float32: ties happen.
HALVES = [np.array(v, np.float32) / 2 for v in np.ndindex(3, 3, 3, 3)]
EXACT = [v - 0.5 for v in HALVES if np.all(np.abs(v - 0.5) == 0.5)]
EXACT += [sign * axis for axis in np.eye(4, dtype=np.float32) for sign in (1, -1)]
EXACT += [np.zeros(4, np.float32)]


def one_by_one(candidates, threshold):
    """The definition: compare with every member, join at once."""
    pool, kept, highest = [], [], []
    for candidate in candidates:
        top = max((np.float32(candidate @ member) for member in pool), default=np.float32(-1))
        highest.append(top)
        kept.append(bool(top <= np.float32(threshold)))
        if kept[-1]:
            pool.append(candidate)
    return kept, highest, pool


def run(batches, threshold, batch):
    similarity_filter = SimilarityFilter(threshold, batches[0].shape[1], batch)
    results = [similarity_filter.accept(part) for part in batches]
    kept = np.concatenate([kept for kept, _ in results])
    highest = np.concatenate([highest for _, highest in results])
    return kept, highest, similarity_filter.embeddings


@settings(max_examples=300, deadline=None)
@given(
    picks=st.lists(st.sampled_from(range(len(EXACT))), min_size=1, max_size=40),
    threshold=st.sampled_from([-1.0, -0.5, 0.0, 0.25, 0.5, 0.75, 1.0]),
    batch=st.integers(1, 9),
    cut=st.integers(0, 40),
)
def test_accepts_what_the_definition_accepts_ties_included(picks, threshold, batch, cut):
    candidates = np.stack([EXACT[pick] for pick in picks])
    kept, highest, pool = run([candidates[:cut], candidates[cut:]], threshold, batch)
    wanted_kept, wanted_highest, wanted_pool = one_by_one(candidates, threshold)
    assert kept.tolist() == wanted_kept
    assert highest.tolist() == wanted_highest
    assert np.array_equal(pool, np.reshape(wanted_pool, (-1, 4)))


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    count=st.integers(1, 60),
    threshold=st.floats(-0.5, 0.95),
    batch=st.integers(1, 70),
)
def test_accepts_what_the_definition_accepts_on_random_directions(seed, count, threshold, batch):
    candidates = np.random.default_rng(seed).normal(size=(count, 8)).astype(np.float32)
    candidates /= np.linalg.norm(candidates, axis=1, keepdims=True)
    cosines = candidates @ candidates.T
    assume(np.abs(cosines - threshold).min() > 1e-5)  # float32 sums differ in their order
    kept, highest, _ = run([candidates], threshold, batch)
    wanted_kept, wanted_highest, _ = one_by_one(candidates, threshold)
    assert kept.tolist() == wanted_kept
    assert highest == pytest.approx(wanted_highest, abs=1e-5)


def test_a_duplicate_is_refused_and_a_zero_vector_is_similar_to_nothing():
    unit, zero = np.eye(3, dtype=np.float32)[0], np.zeros(3, np.float32)
    kept, highest, _ = run([np.stack([unit, unit, zero, zero])], 0.6, 4)
    assert kept.tolist() == [True, False, True, True]
    assert highest.tolist() == [-1, 1, 0, 0]


def test_added_members_count_without_a_comparison():
    similarity_filter = SimilarityFilter(0.6, 3, batch=2)
    similarity_filter.add(np.ones((5, 3), np.float32) / np.float32(np.sqrt(3)))
    assert len(similarity_filter) == 5
    kept, _ = similarity_filter.accept(np.eye(3, dtype=np.float32))
    assert kept.tolist() == [True, True, True]
    assert similarity_filter.embeddings.shape == (8, 3)


def test_nothing_to_accept():
    kept, highest = SimilarityFilter(0.6, 3).accept(np.empty((0, 3), np.float32))
    assert (len(kept), len(highest)) == (0, 0)
