from hypothesis import given
from hypothesis import strategies as st

from aloe.engines.prefix import PrefixIndex

sequences = st.lists(st.lists(st.integers(0, 2), max_size=24), max_size=12)


def longest_common(block: int, prompt: list[int], before: list[list[int]]) -> int:
    """The definition: whole blocks that an earlier sequence began with, never the last token."""
    best = 0
    for other in before:
        blocks = 0
        while (
            (end := (blocks + 1) * block) < len(prompt)
            and end <= len(other)
            and prompt[:end] == other[:end]
        ):
            blocks += 1
        best = max(best, blocks * block)
    return best


@given(st.integers(1, 4), sequences, st.lists(st.integers(0, 2), max_size=24))
def test_reusable_is_the_longest_common_prefix_in_blocks(block, before, prompt):
    index = PrefixIndex(block)
    for number, ids in enumerate(before):
        index.add(ids, str(number % 3))
    assert index.reusable(prompt) == longest_common(block, prompt, before)


@given(st.integers(1, 4), sequences, sequences, st.lists(st.integers(0, 2), max_size=24))
def test_a_released_conversation_leaves_what_others_used_too(block, mine, others, prompt):
    index = PrefixIndex(block)
    for ids in mine:
        index.add(ids, "mine")
    for ids in others:
        index.add(ids, "others")
    index.release("mine")
    assert index.reusable(prompt) == longest_common(block, prompt, others)


@given(
    st.integers(1, 4),
    st.lists(st.tuples(st.sampled_from("abc"), st.lists(st.integers(0, 1), max_size=12))),
)
def test_blocks_of_several_stay_and_blocks_of_one_go(block, added):
    index = PrefixIndex(block)
    users: dict[tuple[int, ...], set[str]] = {}
    for name, ids in added:
        index.add(ids, name)
        for end in range(block, len(ids) + 1, block):
            users.setdefault(tuple(ids[:end]), set()).add(name)
    assert len(index) == len(users)
    for name in "abc":
        index.release(name)
    shared = [path for path, names in users.items() if len(names) > 1]
    assert len(index) == len(shared)
    for path in users:
        known = max((len(own) for own in shared if path[: len(own)] == own), default=0)
        assert index.reusable([*path, 9]) == known


def test_a_block_counts_only_behind_the_blocks_before_it():
    index = PrefixIndex(2)
    index.add([1, 1, 2, 2, 3, 3], "a")
    assert index.reusable([2, 2, 3, 3, 0]) == 0
    assert index.reusable([1, 1, 3, 3, 0]) == 2
    index.release("a")
    index.add([1, 1], "b")
    assert index.reusable([1, 1, 2, 2, 3, 3, 0]) == 2


def test_memory_follows_the_open_conversations():
    index = PrefixIndex(2)
    system = [7] * 10
    sizes = []
    for number in range(50):
        index.add([*system, *([number] * 40)], str(number))
        index.add([*system, *([number] * 80)], str(number))
        if number:
            index.release(str(number - 1))
        sizes.append(len(index))
    assert max(sizes) == sizes[1] == sizes[-1]


def test_an_emptied_cache_knows_nothing():
    index = PrefixIndex(2)
    index.add([1, 2, 3, 4], "a")
    index.clear()
    assert index.reusable([1, 2, 3, 4]) == 0
    index.release("a")
