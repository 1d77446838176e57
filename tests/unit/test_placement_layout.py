"""Groups of roles, and whether machines have room for them."""

from itertools import permutations, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aloe.config import Placements
from aloe.errors import UserError
from aloe.placement import Group, Node, groups_of, shortfall


def placements(**roles) -> Placements:
    return Placements.model_validate(roles)


def test_roles_of_a_group_share_its_devices():
    two = {"nodes": 2, "devices": 4, "group": "policy"}
    found = groups_of(
        placements(actor=two, reference=two, reward={"devices": 2}),
        ["reference", "actor", "reward", "critic"],
    )
    assert found == [
        Group("policy", 2, 4, ("reference", "actor")),
        Group("reward", 1, 2, ("reward",)),
        Group("critic", 1, 1, ("critic",)),
    ]
    assert [group.total for group in found] == [8, 2, 1]
    assert [group.fraction for group in found] == [0.5, 1, 1]


def test_a_group_of_two_shapes_is_refused():
    wrong = placements(
        actor={"devices": 2, "group": "all"}, reference={"devices": 1, "group": "all"}
    )
    message = r'placements.reference: group "all" is 1 x 2 in placements.actor, .* not 1 x 1'
    with pytest.raises(UserError, match=message):
        groups_of(wrong, ["actor", "reference"])


def test_a_shortfall_names_what_is_wanted_and_what_is_there():
    groups = groups_of(placements(actor={"nodes": 2, "devices": 8}), ["actor", "reference"])
    text = shortfall(groups, [Node("a", 8, 96), Node("b", 4, 96)])
    assert text == (
        "placements.actor: 2 machines with 8 GPU and 8 CPU each; placements.reference: 1 machine "
        "with 1 GPU and 1 CPU free (17 of each in all); the cluster has 2 machines: "
        "8 GPU and 96 CPU, 4 GPU and 96 CPU"
    )
    assert shortfall(groups, [Node("a", 8, 8), Node("b", 9, 9)]) == ""
    assert shortfall(groups, [])


def test_a_process_wants_a_cpu_too():
    (group,) = groups_of(placements(actor={"devices": 4}), ["actor"])
    assert shortfall([group], [Node("a", 8, 3)])
    assert not shortfall([group], [Node("a", 8, 4)])


@given(
    st.lists(st.tuples(st.integers(1, 3), st.integers(1, 4)), min_size=1, max_size=3),
    st.lists(st.integers(0, 6), max_size=4),
)
def test_groups_fit_just_when_some_way_of_placing_them_works(shapes, machines):
    groups = [Group(f"g{i}", *shape, (f"g{i}",)) for i, shape in enumerate(shapes)]
    nodes = [Node(f"n{i}", size, size) for i, size in enumerate(machines)]
    ways = product(*(permutations(range(len(nodes)), group.nodes) for group in groups))
    fits = any(
        all(
            sum(group.devices for group, at in zip(groups, way, strict=True) if node in at) <= size
            for node, size in enumerate(machines)
        )
        for way in ways
    )
    assert (shortfall(groups, nodes) == "") == fits
