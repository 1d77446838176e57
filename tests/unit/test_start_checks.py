"""What is wrong with a machine or a run folder is one line, before anything starts."""

import errno
import json
import os
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from aloe.cli import main
from aloe.config import DialogueConfig
from aloe.dialogue import parts
from aloe.errors import UserError
from aloe.runtime import check_temporary
from aloe.schema import PERSONAS
from aloe.storage import Manifest, Store, load_manifest
from aloe.storage import files as storage_files
from aloe.storage.records import run_record
from aloe.storage.slices import read_slice, read_where
from aloe.storage.spending import spent_by_stage
from aloe.storage.tables import read_rows
from aloe.training.ppo.position import read_position as read_ppo
from aloe.training.state import find_position


def test_a_folder_too_long_for_rays_sockets_is_named(monkeypatch, tmp_path):
    folder = tmp_path / ("x" * 60)
    monkeypatch.setenv("RAY_TMPDIR", str(folder))
    with pytest.raises(UserError, match=r"RAY_TMPDIR .*too long for Ray's sockets, expected at"):
        check_temporary()
    monkeypatch.setenv("RAY_TMPDIR", "/tmp/r")
    check_temporary()


@pytest.mark.parametrize("name", ["RAY_TMPDIR", "TMPDIR"])
def test_a_relative_folder_is_made_absolute(monkeypatch, tmp_path, name):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("aloe.runtime._SOCKET_BYTES", 1000)
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv(name, "some/folder")
    check_temporary()
    assert os.environ[name] == str(tmp_path / "some" / "folder")
    assert (tmp_path / "some" / "folder").is_dir()


def test_a_relative_folder_that_is_too_long_is_named(monkeypatch, tmp_path):
    folder = tmp_path / ("x" * 60)
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("RAY_TMPDIR", "r")
    with pytest.raises(UserError, match=r"RAY_TMPDIR /.*/r: too long for Ray's sockets"):
        check_temporary()


def test_a_folder_that_cannot_be_made_is_named(monkeypatch, tmp_path):
    (tmp_path / "f").write_text("")
    monkeypatch.setattr("aloe.runtime._SOCKET_BYTES", 1000)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / "f" / "below"))
    with pytest.raises(UserError, match=r"RAY_TMPDIR .*cannot be written"):
        check_temporary()


def test_a_full_disk_is_named(monkeypatch, tmp_path):
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(storage_files.os, "fsync", full)
    with pytest.raises(UserError, match=r"run\.dir .*No space left on device"):
        Store(str(tmp_path)).check_writable()


@pytest.mark.parametrize(
    "change",
    [
        {"extra": 1},
        {"usage": {"other": 1}},
        {"usage": {"calls": "x"}},
        {"usage": None},
        {"settings": None},
        {"settings": "zz"},
        {"counts": [1]},
        {"fingerprint": 3},
        {"results": []},
    ],
)
def test_a_run_folder_of_another_version_is_named(tmp_path, change):
    store = Store(str(tmp_path))
    Manifest("personas", {}, "fixed", complete=True).save(store)
    name = "personas/manifest.json"
    store.write_text(name, json.dumps(json.loads(store.read_text(name)) | change))
    with pytest.raises(UserError, match=r"manifest\.json: not a manifest of this version"):
        load_manifest(store, "personas")


BROKEN = [b"", b"garbage", b"\xff\xfe", b"[]", b"{}", b"3", b"[" * 9999, b'{"usage": {}}', None]
"""Bytes of a file, or a folder where it should be."""
EMPTY = [("run.json", b"{}"), ("run.json", b'{"usage": {}}'), ("spending/dialogue.json", b"{}")]
"""Of such a run nothing is known, or nothing spent."""


def put(store: Store, name: str, data: bytes | None) -> None:
    path = Path(store.path(name))
    path.parent.mkdir(parents=True, exist_ok=True)
    if data is None:
        path.mkdir()
    else:
        path.write_bytes(data)


def read_manifest(store: Store) -> None:
    load_manifest(store, "dialogue")


def read_plan(store: Store) -> None:
    parts.begin_plan(store, DialogueConfig())


def read_starts(store: Store) -> None:
    parts.starts_of(store, "00000000", 0)


def read_ledger(store: Store) -> None:
    spent_by_stage(store)


def read_position(store: Store) -> None:
    find_position(store, "training/sft", 1, "training.sft")


RECORDS = {
    "dialogue/manifest.json": read_manifest,
    "dialogue/plan.json": read_plan,
    "dialogue/parts/00000000.json": parts.total,
    "dialogue/open/00000000/starts.json": read_starts,
    "spending/dialogue.json": read_ledger,
    "run.json": run_record,
    "training/sft/state/00000001.json": read_position,
    "training/ppo/state/00000001.json": lambda store: read_ppo(store, "training/ppo", {}),
}


@pytest.mark.parametrize("data", BROKEN)
@pytest.mark.parametrize("name", RECORDS)
def test_a_broken_file_of_a_run_is_named_in_one_line(tmp_path, name, data):
    if (name, data) in EMPTY:
        return
    store = Store(str(tmp_path))
    put(store, name, data)
    with pytest.raises(UserError, match=re.escape(store.url(name))) as caught:
        RECORDS[name](store)
    assert "\n" not in str(caught.value)


def without_a_column(schema: pa.Schema) -> bytes:
    return parquet_bytes(schema.remove(schema.get_field_index("split")))


def with_another_kind(schema: pa.Schema) -> bytes:
    place = schema.get_field_index("split")
    return parquet_bytes(schema.set(place, pa.field("split", pa.int64())))


def cut_off(schema: pa.Schema) -> bytes:
    return parquet_bytes(schema)[:-20]


def with_broken_pages(schema: pa.Schema) -> bytes:
    data = parquet_bytes(schema, ["some text"] * 999)
    return data[:4] + bytes(len(data) // 2) + data[4 + len(data) // 2 :]


def parquet_bytes(schema: pa.Schema, texts: list[str] | None = None) -> bytes:
    table = schema.empty_table()
    if texts:
        table = pa.table(
            [
                pa.array(texts).cast(f.type)
                if f.type == pa.string()
                else pa.nulls(len(texts), f.type)
                for f in schema
            ],
            schema=schema,
        )
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return sink.getvalue().to_pybytes()


@pytest.mark.parametrize(
    "broken", [without_a_column, with_another_kind, cut_off, with_broken_pages, lambda _: b"x"]
)
def test_a_broken_table_of_a_run_is_named_in_one_line(tmp_path, broken):
    store = Store(str(tmp_path))
    put(store, "t.parquet", broken(PERSONAS))
    readers = [
        lambda: store.read_table("t.parquet", PERSONAS),
        lambda: store.read_table("t.parquet", PERSONAS, ["profile"]),
        lambda: list(read_rows(store, "t.parquet", PERSONAS)),
        lambda: read_slice(store, "t.parquet", PERSONAS, np.array([0])),
        lambda: read_where(store, "t.parquet", PERSONAS, "profile", "some text"),
    ]
    for read in readers:
        with pytest.raises(UserError, match=r"t\.parquet: ") as caught:
            read()
        assert "\n" not in str(caught.value)


def test_it_is_one_line_and_exit_code_2(scripted_config, tmp_path, capsys):
    folder = tmp_path / "occupied"
    (folder / "personas").mkdir(parents=True)
    (folder / "personas" / "manifest.json").write_text("[]")
    with pytest.raises(SystemExit) as ended:
        main(["run", str(scripted_config), "--run.dir", str(folder)])
    assert ended.value.code == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and "not a manifest of this version" in said[0]
