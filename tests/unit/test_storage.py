import pickle
import uuid

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from aloe.config import StorageConfig
from aloe.errors import UserError
from aloe.schema import ERRORS, PERSONAS, VERSION, derive_seed, stable_id
from aloe.storage import (
    Manifest,
    Store,
    Usage,
    load_manifest,
    require_stage,
    stage_manifest,
    use_storage,
)

ROW = {
    "persona_id": "p",
    "profile_id": "a",
    "personality_id": "b",
    "profile": "Lives by the sea.",
    "personality": "Calm.",
    "preferences": ["asks"],
    "twin_id": None,
    "split": "train",
}


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path / "run"))


def test_tables_come_back_as_written(store):
    store.write_table("t.parquet", [ROW], PERSONAS)
    assert store.read_table("t.parquet", PERSONAS).to_pylist() == [ROW]
    assert store.read_table("t.parquet", PERSONAS, ["split"]).to_pylist() == [{"split": "train"}]


def test_folders_read_in_order_of_names_and_may_be_empty(store):
    assert store.read_table("nothing", PERSONAS).num_rows == 0
    for name in ("b", "a"):
        store.write_table(f"f/{name}.parquet", [ROW | {"persona_id": name}], PERSONAS)
    assert store.read_table("f", PERSONAS)["persona_id"].to_pylist() == ["a", "b"]


def test_another_schema_version_is_named(store):
    store.write_bytes("x.parquet", b"")
    old = pa.table({"persona_id": ["p"]}).replace_schema_metadata(
        {"aloe.table": "personas", "aloe.version": "0"}
    )
    pq.write_table(old, store.path("x.parquet"))
    with pytest.raises(UserError, match=rf"x\.parquet: aloe\.version is 0, expected {VERSION}"):
        store.read_table("x.parquet", PERSONAS)


def test_another_table_and_a_missing_file_are_named(store):
    store.write_table("t.parquet", [], ERRORS)
    with pytest.raises(UserError, match=r"aloe\.table is errors, expected personas"):
        store.read_table("t.parquet", PERSONAS)
    with pytest.raises(UserError, match=r"gone\.parquet: missing"):
        store.read_table("gone.parquet", PERSONAS)


def test_a_failed_write_leaves_the_old_file_and_no_other(store, monkeypatch):
    store.write_text("a/file", "old")

    def full(_):
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="disk full"):
        store.write_text("a/file", "new")
    assert store.read_text("a/file") == "old"
    assert store.names("a") == ["file"]


def test_removing_takes_a_file_or_a_whole_folder_and_nothing_else(tmp_path):
    for root in (str(tmp_path / "run"), f"memory://{uuid.uuid4().hex}"):
        store = Store(root)
        for name in ("a/x", "a/deep/y", "ab/z"):
            store.write_text(name, name)
        store.remove("a", "x")
        assert store.names("a") == ["deep"]
        store.remove("a")
        store.remove("a")
        assert (store.names("a"), store.names("ab")) == ([], ["z"])


def test_many_texts_come_back_by_name(store):
    texts = {f"f/{number}": f"text {number}" for number in range(5)}
    for name, text in texts.items():
        store.write_text(name, text)
    assert store.read_texts(list(texts)) == texts
    assert store.read_texts([]) == {}
    with pytest.raises(FileNotFoundError):
        store.read_texts(["f/0", "f/none"])


def test_settings_travel_with_a_store_and_hold_for_the_process_it_comes_to(monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://elsewhere")
    options = StorageConfig(
        endpoint_url="http://127.0.0.1:9", region="eu-west-1", path_style=True, attempts=2
    )
    store = Store("s3://bucket/run", options)
    try:
        assert pickle.loads(pickle.dumps(store)) == store
        for fs in (store.fs, fsspec.filesystem("s3")):
            client = fs.s3.meta
            assert client.endpoint_url == "http://127.0.0.1:9"
            assert client.region_name == "eu-west-1"
            assert client.config.s3["addressing_style"] == "path"
            assert client.config.retries["total_max_attempts"] == 2
        other = Store("s3://bucket/run").fs.s3.meta
        assert other.endpoint_url == "http://elsewhere"
    finally:
        use_storage(StorageConfig())


def test_keys_do_not_belong_into_the_configuration():
    with pytest.raises(ValidationError, match="Extra inputs"):
        StorageConfig.model_validate({"key": "secret"})


def test_an_unwritable_root_is_a_user_error():
    with pytest.raises(UserError, match=r"run\.dir /proc/none"):
        Store("/proc/none").check_writable()


def test_changed_settings_are_refused_with_the_difference(store):
    stage_manifest(store, "one", {"turns": 3, "deep": {"x": 1}})
    with pytest.raises(UserError, match=r"deep\.x: 1 there, 2 now"):
        stage_manifest(store, "one", {"turns": 3, "deep": {"x": 2}})


def test_a_stage_wants_the_one_before(store):
    with pytest.raises(UserError, match="not complete"):
        stage_manifest(store, "two", {}, after=["one"])
    first = stage_manifest(store, "one", {"seed": 1}).finish(store, 0.0)
    assert require_stage(store, "one") == load_manifest(store, "one") == first
    assert stage_manifest(store, "two", {}, after=["one"]).complete is False


def test_wall_time_adds_up_over_starts(store):
    manifest = stage_manifest(store, "one", {})
    for _ in range(2):
        manifest = manifest.pause(store, 0.0)
    assert manifest.wall_seconds > 0
    assert load_manifest(store, "one") == manifest


calls = st.lists(
    st.fixed_dictionaries(
        {
            "tries": st.integers(1, 3),
            "prompt_tokens": st.integers(0, 10**6),
            "cached_tokens": st.integers(0, 10**6),
            "reusable_tokens": st.integers(0, 10**6),
            "completion_tokens": st.integers(0, 10**6),
            "seconds": st.integers(0, 100),
            "cost_usd": st.integers(0, 100),
            "replaced": st.integers(0, 9),
        }
    )
)


@given(calls, calls)
def test_usage_of_parts_is_usage_of_the_whole(first, second):
    assert Usage.of_calls(first) + Usage.of_calls(second) == Usage.of_calls(first + second)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(json_values)
def test_ids_and_seeds_are_functions_of_the_value(value):
    assert stable_id(value) == stable_id(value)
    assert len(stable_id(value)) == 16
    assert 0 <= derive_seed(value) < 2**31


def test_ids_are_the_same_everywhere():
    assert stable_id("persona", 1, {"b": 2, "a": "é"}) == "0b742a757ae4f1cb"


def test_manifest_has_what_a_reader_needs(store):
    made = Manifest("s", {"a": 1}, "f", usage=Usage(1, 2, 3, 4, 5.0), counts={"n": 1}).save(store)
    assert load_manifest(store, "s") == made
