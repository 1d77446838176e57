import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aloe.config import PersonasConfig
from aloe.errors import UserError
from aloe.personas.pairing import Member, pair_pools


def configuration(**changes):
    values = {"writer": "w", "profiles": {"size": 1}, "personalities": {"size": 1}} | changes
    return PersonasConfig.model_validate(values)


def members(kind, count):
    return [Member(f"{kind}{number}", f"{kind} number {number}") for number in range(count)]


def pair(profiles, personalities, share=0.2, seed=0, **changes):
    pools = members("profile", profiles), members("personality", personalities)
    return pair_pools(*pools, configuration(**changes), share, seed)


CASES = {
    "profiles": st.integers(3, 12),
    "personalities": st.integers(3, 12),
    "heldout_profiles": st.integers(1, 2),
    "heldout_personalities": st.integers(1, 2),
    "personalities_per_profile": st.integers(1, 15),
    "max_personas": st.none() | st.integers(1, 30),
    "share": st.floats(0.01, 0.99),
    "seed": st.integers(0, 10**6),
}


@settings(max_examples=200, deadline=None)
@given(**CASES)
def test_splits_share_no_persona_and_benchmark_parts_stay_apart(**case):
    personas = pair(**case)
    ids = [persona.persona_id for persona in personas]
    assert len(set(ids)) == len(ids)
    tested = [persona for persona in personas if persona.split == "benchmark"]
    others = [persona for persona in personas if persona.split != "benchmark"]
    assert len(tested) == case["heldout_profiles"] * case["heldout_personalities"]
    assert not {p.profile for p in tested} & {p.profile for p in others}
    assert not {p.personality for p in tested} & {p.personality for p in others}


@settings(max_examples=200, deadline=None)
@given(**CASES)
def test_every_other_profile_gets_its_personalities_unless_capped(**case):
    others = [persona for persona in pair(**case) if persona.split != "benchmark"]
    left = case["personalities"] - case["heldout_personalities"]
    each = min(case["personalities_per_profile"], left)
    full = (case["profiles"] - case["heldout_profiles"]) * each
    assert len(others) == min(full, case["max_personas"] or full)
    validation = sum(persona.split == "validation" for persona in others)
    assert len(others) < 2 or 1 <= validation < len(others)


@settings(max_examples=50, deadline=None)
@given(**CASES)
def test_the_seed_alone_decides(**case):
    assert pair(**case) == pair(**case)


def test_another_seed_pairs_otherwise():
    sizes = {"heldout_profiles": 2, "heldout_personalities": 2, "personalities_per_profile": 2}
    assert pair(12, 12, **sizes) != pair(12, 12, seed=1, **sizes)


def test_an_id_depends_on_the_texts_alone():
    first, second = Member("a", "x"), Member("b", "y")
    config = configuration(heldout_profiles=1, heldout_personalities=1)
    there = pair_pools([first, second], [first, second], config, 0.1, 0)
    moved = [Member("other", member.text) for member in (first, second)]
    again = pair_pools(moved, moved, config, 0.1, 0)
    assert [p.persona_id for p in there] == [p.persona_id for p in again]


@pytest.mark.parametrize("pool", ["profiles", "personalities"])
def test_a_pool_that_leaves_nobody_to_train_on_is_refused(pool):
    sizes = {"profiles": 9, "personalities": 9} | {pool: 3}
    with pytest.raises(UserError, match=rf"personas\.heldout_{pool}: 3 .*pool of 3.*at most 2"):
        pair(**sizes, heldout_profiles=3, heldout_personalities=3)
