"""The log of a part: nothing that was kept is lost, and a store in the cloud is asked seldom."""

import asyncio
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aloe.dialogue.log import TurnLog, read_log, write_log
from aloe.errors import WorldFault
from aloe.schema import derive_seed
from aloe.storage import Store


def turn(tree: int, number: int) -> dict:
    return {"tree_id": f"t{tree}", "node_id": f"{tree}-{number}", "turn": number, "role": "user"}


def end(tree: int, branch: int, kind: str = "EngineError") -> dict:
    return {"item_id": f"t{tree}", "branch": branch, "kind": kind, "stage": "dialogue", "calls": []}


def collected(remote: bool, trees: int, turns: int):
    """Files as they were written by trees that go on at once, each at its own pace."""
    files: list[tuple[list[dict], list[dict]]] = []

    async def write(number, rows, ends):
        assert number == 7 + len(files)
        await asyncio.sleep(0.01)
        files.append((rows, ends))

    async def grow(log, tree):
        for number in range(turns):
            await asyncio.sleep(derive_seed(tree, number) % 100 / 2000)
            await log.keep([turn(tree, number)])
            assert remote or any(turn(tree, number) in rows for rows, _ in files)
        await log.keep(ends=[end(tree, turns)])

    async def part():
        log = TurnLog(write, 7, remote)
        await asyncio.gather(*(grow(log, tree) for tree in range(trees)))
        await log.flush()

    asyncio.run(part())
    return files


@pytest.mark.parametrize("remote", [False, True])
def test_all_that_was_kept_is_written_once(remote):
    files = collected(remote, trees=20, turns=5)
    rows = [row["node_id"] for rows, _ in files for row in rows]
    assert sorted(rows) == sorted(f"{tree}-{number}" for tree in range(20) for number in range(5))
    assert sum(len(ends) for _, ends in files) == 20
    assert len(files) == 1 if remote else len(files) > 5


@settings(deadline=None, max_examples=50)
@given(
    kept=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 9)), max_size=30),
    ended=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 9)), max_size=8),
    cuts=st.lists(st.integers(0, 30), max_size=4),
)
def test_what_is_read_is_what_was_written_whatever_was_written_twice(
    tmp_path_factory, kept, ended, cuts
):
    store = Store(str(tmp_path_factory.mktemp("log")))
    places = [0, *sorted(cuts), 30]
    for number, (first, last) in enumerate(pairwise(places)):
        turns = [turn(*place) for place in kept[max(first - 2, 0) : last]]
        write_log(store, "p", number, turns, [end(*place) for place in ended])
    found = read_log(store, "p")
    assert {row["node_id"] for rows in found.turns.values() for row in rows} == {
        f"{tree}-{number}" for tree, number in kept
    }
    assert sum(map(len, found.turns.values())) == len(set(kept))
    assert sum(map(len, found.ends.values())) == len(set(ended))
    assert found.files <= len(places) - 1
    assert found.files == 0 or kept or ended


@pytest.mark.parametrize("remote", [False, True])
def test_a_store_that_refuses_is_told_to_all_who_keep(remote):
    async def write(number, turns, ends):
        await asyncio.sleep(0.05)
        raise WorldFault("disk full", passes=False)

    async def part():
        log = TurnLog(write, 0, remote)

        async def keep(after_s):
            await asyncio.sleep(after_s)
            await log.keep([turn(0, 0)])

        told = await asyncio.gather(*map(keep, (0, 0.02, 0.3)), return_exceptions=True)
        with pytest.raises(WorldFault, match="disk full"):
            await log.flush()
        return told

    told = asyncio.run(asyncio.wait_for(part(), 5))
    assert [isinstance(error, WorldFault) for error in told] == [not remote] * 2 + [not remote]


def test_a_closed_log_writes_nothing_more():
    written = []

    async def write(number, turns, ends):
        await asyncio.sleep(0.05)
        written.extend(turns)

    async def part():
        log = TurnLog(write, 0, remote=True)
        await log.keep([turn(0, 0)])
        began = asyncio.get_running_loop().time()
        await log.close()
        return asyncio.get_running_loop().time() - began

    assert asyncio.run(part()) < 1
    assert written == []
