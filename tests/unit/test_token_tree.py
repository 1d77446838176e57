import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from aloe.training.token_tree import pack, sees

sequences = st.lists(st.lists(st.integers(0, 2), max_size=8), max_size=10)


@given(sequences)
def test_every_sequence_lies_on_its_path(rows):
    tree = pack(rows)
    for row, path in zip(rows, tree.paths, strict=True):
        assert tree.ids[path].tolist() == row
        assert tree.position[path].tolist() == list(range(len(row)))


@given(sequences)
def test_each_beginning_stands_once(rows):
    beginnings = {tuple(row[:length]) for row in rows for length in range(1, len(row) + 1)}
    assert len(pack(rows)) == len(beginnings)


@given(sequences)
def test_a_node_sees_itself_and_its_ancestors_only(rows):
    tree = pack(rows)
    visible = sees(tree.end)
    for path in tree.paths:
        for place, node in enumerate(path):
            assert np.flatnonzero(visible[node]).tolist() == path[: place + 1].tolist()


def test_three_turns_are_written_out():
    tree = pack([[1, 2, 3], [1, 2, 4], [1, 2, 3, 5, 6], [1, 2, 3, 5, 7], [9]])
    assert tree.ids.tolist() == [1, 2, 3, 5, 6, 7, 4, 9]
    assert tree.position.tolist() == [0, 1, 2, 3, 4, 4, 2, 0]
    assert tree.end.tolist() == [7, 7, 6, 6, 5, 6, 7, 8]
    assert [path.tolist() for path in tree.paths] == [
        [0, 1, 2],
        [0, 1, 6],
        [0, 1, 2, 3, 4],
        [0, 1, 2, 3, 5],
        [7],
    ]
