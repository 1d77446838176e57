"""Large files, piece by piece, on a disk and on a store that is none."""

from __future__ import annotations

import uuid
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from aloe.errors import UserError, WorldFault
from aloe.schema import PROMPTS, SFT
from aloe.storage import Store
from aloe.storage.tables import new_file, new_table, read_parts, read_rows


@pytest.fixture(params=["disk", "memory"])
def store(request, tmp_path):
    return Store(str(tmp_path) if request.param == "disk" else f"memory://{uuid.uuid4().hex}")


def prompts(count: int) -> list[dict]:
    message = {"role": "user", "content": "Hello."}
    return [
        dict.fromkeys(PROMPTS.names, "x")
        | {"prompt_id": str(i), "prompt": [message], "preferences": ["asks"]}
        for i in range(count)
    ]


def test_rows_come_back_in_order(store):
    rows = prompts(2500)
    with new_table(store, "a/b.parquet", PROMPTS) as add:
        for row in rows:
            add([row])
    assert list(read_rows(store, "a/b.parquet", PROMPTS)) == rows
    assert store.read_table("a/b.parquet", PROMPTS).to_pylist() == rows


def test_a_file_depends_on_its_rows_alone(store):
    rows = prompts(2500)
    with new_table(store, "one.parquet", PROMPTS) as add:
        add(rows)
    with new_table(store, "two.parquet", PROMPTS) as add:
        add(rows[:7])
        add(rows[7:])
    assert store.read_bytes("one.parquet") == store.read_bytes("two.parquet")
    file = pq.ParquetFile(pa.BufferReader(store.read_bytes("one.parquet")))
    assert file.num_row_groups == 3


def test_a_table_without_rows_is_a_table(store):
    with new_table(store, "none.parquet", PROMPTS):
        pass
    assert list(read_rows(store, "none.parquet", PROMPTS)) == []


def test_what_ends_badly_leaves_the_old_file(store):
    store.write_text("a/b.txt", "old")

    def broken():
        with new_file(store, "a/b.txt") as path:
            path.write_text("new")
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        broken()
    assert store.read_text("a/b.txt") == "old"
    assert store.names("a") == ["b.txt"]


def test_the_old_file_is_read_until_the_new_one_is_whole(store):
    store.write_text("b.txt", "old")
    with new_file(store, "b.txt") as path:
        path.write_text("new")
        assert store.read_text("b.txt") == "old"
    assert store.read_text("b.txt") == "new"


def test_what_is_missing_or_something_else_is_named(store):
    with pytest.raises(UserError, match=r"c\.parquet: missing"):
        list(read_rows(store, "c.parquet", PROMPTS))
    store.write_table("c.parquet", prompts(1), PROMPTS)
    with pytest.raises(UserError, match=r"c\.parquet: aloe\.table is prompts, expected sft"):
        list(read_rows(store, "c.parquet", SFT))


def test_parts_come_in_order_of_their_names(store):
    rows = prompts(3)
    for name, row in zip(("b", "c", "a"), rows, strict=True):
        store.write_table(f"parts/{name}.parquet", [row], PROMPTS)
    parts = list(read_parts(store, "parts", PROMPTS, ["prompt_id"]))
    assert parts == [[{"prompt_id": "2"}], [{"prompt_id": "0"}], [{"prompt_id": "1"}]]
    assert list(read_parts(store, "nowhere", PROMPTS)) == []


@pytest.fixture
def full_disk(tmp_path, monkeypatch):
    """A store whose files `x` and `x.parquet` are written to /dev/full."""
    monkeypatch.setattr("aloe.storage.files.uuid.uuid4", lambda: SimpleNamespace(hex="new"))
    for name in ("x", "x.parquet"):
        (tmp_path / f"{name}.new.partial").symlink_to("/dev/full")
    return Store(str(tmp_path))


def test_a_disk_that_fills_while_a_table_is_written_is_the_worlds_fault(full_disk):
    with (
        pytest.raises(WorldFault, match=r"x\.parquet: cannot be written \(.*No space") as fault,
        new_table(full_disk, "x.parquet", PROMPTS) as add,
    ):
        add(prompts(2500))
    assert not fault.value.passes
    assert full_disk.names() == []


def test_a_disk_that_fills_while_a_file_is_written_is_the_worlds_fault(full_disk):
    with (
        pytest.raises(WorldFault, match=r"x: cannot be written \(.*No space"),
        new_file(full_disk, "x") as path,
        path.open("w") as file,
    ):
        file.write("text")


def test_what_else_fails_while_a_file_is_written_stays_as_it_is(store):
    with pytest.raises(TimeoutError), new_file(store, "x"):
        raise TimeoutError("of a model")


def test_a_file_that_is_no_parquet_is_named(store):
    store.write_text("c.parquet", "garbage")
    with pytest.raises(UserError, match=r"c\.parquet: not a Parquet file"):
        list(read_rows(store, "c.parquet", PROMPTS))
