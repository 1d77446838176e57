"""What reads on S3 cost: the columns and rows asked for, and little more."""

from __future__ import annotations

import gzip
import json
import random
import uuid
from collections.abc import Iterator

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from s3_server import KEYS, Fault, FaultyProxy, faulty_proxy, moto_server

from aloe.config import StorageConfig
from aloe.errors import UserError, WorldFault
from aloe.given import read_records
from aloe.schema import METRICS, NODES, PERSONAS
from aloe.storage import Store, use_storage
from aloe.storage.slices import read_column, read_slice, read_where, rows_where_not
from aloe.storage.traffic import Traffic, traffic

ROWS, GROUP = 6_000, 64
KIB = 1 << 10


@pytest.fixture(scope="module")
def proxy() -> Iterator[FaultyProxy]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("AWS_ENDPOINT_URL", raising=False)
        for key, value in KEYS.items():
            patch.setenv(key, value)
        with moto_server() as endpoint, faulty_proxy(endpoint) as running:
            yield running
    use_storage(StorageConfig())


@pytest.fixture(scope="module")
def store(proxy: FaultyProxy) -> Store:
    options = StorageConfig(
        endpoint_url=proxy.url, region="us-east-1", path_style=True, timeout_s=5, attempts=3
    )
    return Store(f"s3://aloe/{uuid.uuid4().hex}", options)


def text(draw: random.Random, words: int) -> str:
    return " ".join(f"{draw.randrange(1 << 20):x}" for _ in range(words))


@pytest.fixture(scope="module")
def personas(store: Store) -> list[dict[str, object]]:
    draw = random.Random(1)
    rows = [
        {
            "persona_id": f"{number:06d}",
            "profile": text(draw, 60),
            "personality": text(draw, 40),
            "split": "train" if number < ROWS - 100 else "benchmark",
        }
        for number in range(ROWS)
    ]
    store.write_table("personas.parquet", rows, PERSONAS, row_group=GROUP)
    return rows


def cost_of(work) -> tuple[object, Traffic]:
    before = traffic()
    found = work()
    return found, traffic() - before


def test_a_small_file_is_one_request(store):
    rows = [{"stage": "sft", "step": 1, "name": "loss", "value": 0.5}]
    store.write_table("small.parquet", rows, METRICS)
    found, cost = cost_of(lambda: store.read_table("small.parquet", METRICS, ["step", "value"]))
    assert found.to_pylist() == [{"step": 1, "value": 0.5}]
    assert cost.requests == {"GetObject": 1}


def test_a_slice_costs_its_row_group_once_the_footer_is_known(store, personas):
    size = store.fs.size(store.path("personas.parquet"))
    rows = np.arange(10 * GROUP, 11 * GROUP)
    first, _ = cost_of(lambda: read_slice(store, "personas.parquet", PERSONAS, rows))
    second, cost = cost_of(lambda: read_slice(store, "personas.parquet", PERSONAS, rows + GROUP))
    assert first["profile"].to_pylist() == [row["profile"] for row in personas[640:704]]
    assert second["profile"].to_pylist() == [row["profile"] for row in personas[704:768]]
    assert cost.requests == {"GetObject": 1}
    assert cost.read < 1.1 * size * GROUP / ROWS


def test_who_is_held_out_is_told_by_the_footer(store, personas):
    size = store.fs.size(store.path("personas.parquet"))
    rows, cost = cost_of(
        lambda: rows_where_not(store, "personas.parquet", PERSONAS, "split", "benchmark")
    )
    assert rows.tolist() == list(range(ROWS - 100))
    assert cost.read < size / 10
    found, cost = cost_of(
        lambda: read_where(store, "personas.parquet", PERSONAS, "split", "benchmark")
    )
    assert found["persona_id"].to_pylist() == [row["persona_id"] for row in personas[-100:]]
    assert cost.read < size / 10


def test_columns_cost_what_they_hold(store, personas):
    size = store.fs.size(store.path("personas.parquet"))
    column, cost = cost_of(lambda: read_column(store, "personas.parquet", PERSONAS, "personality"))
    assert column.to_pylist() == [row["personality"] for row in personas]
    assert cost.read < 0.6 * size


@settings(max_examples=30, deadline=None)
@given(
    st.sets(st.integers(0, ROWS - 1), max_size=8),
    st.lists(st.sampled_from(PERSONAS.names), min_size=1, max_size=4, unique=True),
)
def test_what_is_read_is_what_was_written(store, personas, numbers, columns):
    wanted = np.array(sorted(numbers), np.int64)
    found = read_slice(store, "personas.parquet", PERSONAS, wanted)
    assert found["persona_id"].to_pylist() == [f"{number:06d}" for number in wanted]
    table = store.read_table("personas.parquet", PERSONAS, columns)
    assert table.column_names == columns
    assert [table[columns[0]][int(n)].as_py() for n in wanted] == [
        personas[n].get(columns[0]) for n in wanted
    ]


def test_many_files_are_read_by_column_in_order_of_their_names(store):
    for number in range(70):
        row = {"tree_id": f"tree {number}", "text": "x" * number, "calls": []}
        store.write_table(f"many/{number:03d}.parquet", [row], NODES)
    found, cost = cost_of(lambda: store.read_table("many", NODES, ["tree_id"]))
    assert found["tree_id"].to_pylist() == [f"tree {number}" for number in range(70)]
    assert cost.requests["GetObject"] == 70


@pytest.mark.parametrize("kind", ["error", "drop", "cut"])
def test_a_range_that_breaks_off_is_read_again(store, personas, proxy, kind):
    proxy.faults = [Fault(kind, method="GET", target="personas.parquet", times=2)]
    column = read_column(store, "personas.parquet", PERSONAS, "profile")
    assert column.to_pylist() == [row["profile"] for row in personas]
    assert proxy.faults[0].hits == 2
    proxy.faults = []


def test_a_file_that_is_replaced_is_read_anew(store):
    def write(name: str, rows: int) -> None:
        draw = random.Random(name)
        people = [{"persona_id": f"{name} {n}", "profile": text(draw, 99)} for n in range(rows)]
        store.write_table("replaced.parquet", people, PERSONAS, row_group=100)

    rows = np.arange(150, 160)
    for name, size in (("old", 900), ("new", 700), ("newer", 1100)):
        write(name, size)
        found = read_slice(store, "replaced.parquet", PERSONAS, rows)
        assert found["persona_id"].to_pylist() == [f"{name} {number}" for number in rows]


def test_what_is_missing_or_no_parquet_is_named(store):
    with pytest.raises(UserError, match=r"none\.parquet: missing"):
        read_column(store, "none.parquet", PERSONAS, "split")
    store.write_text("text.parquet", "no Parquet")
    with pytest.raises(UserError, match=r"text\.parquet: not a Parquet file"):
        store.read_table("text.parquet", PERSONAS, ["split"])
    store.write_table("other.parquet", [{"persona_id": "p"}], PERSONAS)
    with pytest.raises(UserError, match=r"aloe\.table is personas, expected nodes"):
        read_slice(store, "other.parquet", NODES, np.array([0]))


def test_a_footer_longer_than_the_first_request_is_read_whole(store):
    schema = pa.schema(
        [(f"column {number}", pa.int64()) for number in range(300)], metadata=PERSONAS.metadata
    )
    table = pa.table({name: list(range(40)) for name in schema.names}, schema=schema)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, row_group_size=10)
    store.write_bytes("wide.parquet", sink.getvalue().to_pybytes())
    found, cost = cost_of(lambda: store.read_table("wide.parquet", schema, ["column 7"]))
    assert found["column 7"].to_pylist() == list(range(40))
    assert cost.requests["GetObject"] == 2 + 4  # the end, the rest of the footer, four groups


def test_writes_are_counted(store):
    _, cost = cost_of(lambda: store.write_bytes("written", b"x" * 100 * KIB))
    assert cost.requests == {"PutObject": 1}
    assert cost.written == 100 * KIB


WANTED = ["uuid", "persona"]


@pytest.fixture(scope="module")
def brought(store: Store) -> tuple[str, int]:
    """Folder of a data set as people have it, twelve columns wide, and what of it is needed."""
    draw = random.Random(2)
    columns = {f"other {n}": [text(draw, 20) for _ in range(ROWS)] for n in range(10)}
    columns["persona"] = [text(draw, 20) for _ in range(ROWS)]
    columns["uuid"] = [f"{number}" for number in range(ROWS)]
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink, row_group_size=2_000)
    data = sink.getvalue().to_pybytes()
    metadata = pq.read_metadata(pa.BufferReader(data))
    chunks = [
        metadata.row_group(group).column(place)
        for group in range(metadata.num_row_groups)
        for place in range(metadata.num_columns)
    ]
    for name in ("train-0", "train-1"):
        store.write_bytes(f"brought/data/{name}.parquet", data)
    store.write_text("brought/dataset_infos.json", "{}")
    needed = sum(c.total_compressed_size for c in chunks if c.path_in_schema in WANTED)
    return store.url("brought"), needed


def test_of_a_parquet_file_that_people_bring_only_the_columns_are_fetched(store, brought):
    folder, needed = brought
    use_storage(store.options)
    file = f"{folder}/data/train-0.parquet"
    rows, cost = cost_of(lambda: [row for _, row in read_records(file, WANTED)])
    assert [row["uuid"] for row in rows] == [f"{number}" for number in range(ROWS)]
    assert rows[0].keys() == set(WANTED)
    assert cost.read < 1.5 * needed


def test_of_a_folder_that_people_bring_only_the_columns_are_fetched(store, brought):
    folder, needed = brought
    use_storage(store.options)
    rows, cost = cost_of(lambda: list(read_records(folder, WANTED)))
    assert len(rows) == 2 * ROWS
    assert rows[0][0] == f"{folder}/data/train-0.parquet:row 1"
    assert rows[-1][0] == f"{folder}/data/train-1.parquet:row {ROWS}"
    assert cost.read < 1.5 * 2 * needed


@pytest.mark.parametrize("name", ["x.jsonl", "x.csv", "x.json", "x.jsonl.gz", "saved"])
def test_other_files_that_people_bring_are_fetched_once(store, tmp_path, name):
    draw = random.Random(name)
    rows = [{"uuid": f"{number}", "persona": text(draw, 30)} for number in range(2_000)]
    if name == "saved":
        datasets.Dataset.from_list(rows).save_to_disk(str(tmp_path / name))
        store.upload(tmp_path / name, name)
    else:
        store.write_bytes(name, as_file(rows, name))
    size = store.fs.du(store.path(name))
    use_storage(store.options)
    found, cost = cost_of(lambda: [row for _, row in read_records(store.url(name), WANTED)])
    assert found == rows
    assert cost.read <= 1.1 * size


def as_file(rows: list[dict[str, str]], name: str) -> bytes:
    if ".csv" in name:
        lines = [f"{row['uuid']},{row['persona']}\n" for row in rows]
        return "".join(["uuid,persona\n", *lines]).encode()
    if name == "x.json":
        return json.dumps(rows).encode()
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    return gzip.compress(lines) if name.endswith(".gz") else lines


def test_what_people_bring_from_a_store_that_is_down_is_the_worlds_fault(store, proxy, brought):
    folder, _ = brought
    use_storage(store.options)
    proxy.faults = [Fault("error", method="GET", target="train-0.parquet", times=99)]
    with pytest.raises(WorldFault, match=r"train-0\.parquet: cannot be read"):
        list(read_records(f"{folder}/data/train-0.parquet", WANTED))
    proxy.faults = []
    store.write_bytes("empty.parquet", b"")
    store.write_bytes("broken.parquet", b"x" * 100 + b"\xff\xff\xff\x7fPAR1")
    for name in ("empty", "broken", "none"):
        with pytest.raises(UserError, match=rf"{name}\.parquet: cannot be read"):
            list(read_records(store.url(f"{name}.parquet"), WANTED))
