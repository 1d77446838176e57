"""Storage on an S3 server that fails, is slow or hangs up: results are those of a quiet day."""

from __future__ import annotations

import math
import pickle
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from s3_server import KEYS, Fault, FaultyProxy, faulty_proxy, moto_server
from scripted_runs import persona_rows

from aloe.cli import main
from aloe.config import Config, StorageConfig
from aloe.config_file import load_config
from aloe.dialogue import rollout_dialogues
from aloe.errors import UserError, WorldFault
from aloe.preferences import build_preferences
from aloe.schema import NODES, PERSONAS
from aloe.storage import Manifest, Store, localize, run_store, use_storage

pytestmark = pytest.mark.usefixtures("own_ray")

MIB = 1 << 20
TEXT = "Sea and salt. " * 1000
FAULTS = {
    "500": {"kind": "error", "status": 500},
    "503": {"kind": "error", "status": 503},
    "slow": {"kind": "slow"},
    "drop": {"kind": "drop"},
    "lost": {"kind": "lost"},
    "cut": {"kind": "cut"},
}


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch, moto_server() as endpoint:
        patch.delenv("AWS_ENDPOINT_URL", raising=False)
        for key, value in KEYS.items():
            patch.setenv(key, value)
        yield endpoint
    use_storage(StorageConfig())


@pytest.fixture
def proxy(server: str) -> Iterator[FaultyProxy]:
    with faulty_proxy(server) as running:
        yield running


@pytest.fixture
def store(proxy: FaultyProxy) -> Store:
    return Store(f"s3://aloe/{uuid.uuid4().hex}", settings(proxy.url))


def settings(endpoint: str, attempts: int = 4) -> StorageConfig:
    return StorageConfig(
        endpoint_url=endpoint,
        region="us-east-1",
        path_style=True,
        timeout_s=1,
        attempts=attempts,
    )


@pytest.mark.parametrize("name", FAULTS)
def test_reads_are_repeated(store, proxy, name):
    store.write_text("a/text", TEXT)
    proxy.faults = [Fault(**FAULTS[name], method="GET", target="a/text", times=2)]
    assert store.read_text("a/text") == TEXT
    assert proxy.faults[0].hits == 2


@pytest.mark.parametrize("name", FAULTS)
def test_writes_are_repeated(store, proxy, name):
    store.write_text("a/text", "old")
    proxy.faults = [Fault(**FAULTS[name], method="PUT", times=2)]
    store.write_text("a/text", TEXT)
    assert store.read_text("a/text") == TEXT
    assert proxy.faults[0].hits == 2


@pytest.mark.parametrize("name", FAULTS)
def test_questions_are_repeated(store, proxy, name):
    for file in ("a/x.parquet", "a/y.parquet", "ab/z"):
        store.write_text(file, TEXT)
    proxy.faults = [
        Fault(**FAULTS[name], method="HEAD"),
        Fault(**FAULTS[name], method="GET", target="list-type"),
        Fault(**FAULTS[name], method="POST", target="delete"),
    ]
    assert store.exists("a", "x.parquet")
    assert store.finished("a") == {"x", "y"}
    store.remove("a")
    assert not store.exists("a", "x.parquet")
    assert store.names("a") == []
    assert store.names("ab") == ["z"]
    assert [fault.hits for fault in proxy.faults] == [1, 1, 1]


def test_many_files_are_read_at_once_through_a_mix_of_faults(store, proxy):
    texts = {f"many/{number}": f"{number} {TEXT}" for number in range(100)}
    for name, text in texts.items():
        store.write_text(name, text)
    proxy.faults = [
        Fault(**fault, method="GET", target=f"many/{number}", times=2)
        for number, fault in enumerate(FAULTS.values(), start=20)
    ]
    assert store.read_texts(list(texts)) == texts
    assert all(fault.hits == 2 for fault in proxy.faults)
    with pytest.raises(FileNotFoundError):
        store.read_texts(["many/1", "many/none"])


def test_folders_are_copied_whole(store, proxy, tmp_path):
    (tmp_path / "deep").mkdir()
    for name in ("a", "deep/b"):
        (tmp_path / name).write_text(f"{name} {TEXT}")
    proxy.faults = [
        Fault("lost", "PUT"),
        Fault("cut", "GET", "/deep/b", times=2),
        Fault("slow", "GET", "/a"),
    ]
    store.upload(tmp_path, "folder")
    local = Path(localize(store.url("folder"), store.options))
    assert {
        str(file.relative_to(local)): file.read_text()
        for file in local.rglob("*")
        if file.is_file()
    } == {name: f"{name} {TEXT}" for name in ("a", "deep/b")}
    assert all(fault.hits == fault.times for fault in proxy.faults)


@pytest.mark.parametrize("name", FAULTS)
def test_a_server_that_never_recovers_is_an_error_with_the_url(store, proxy, name):
    small = Store(store.root, settings(proxy.url, attempts=2))
    small.write_text("a/text", TEXT)
    proxy.faults = [Fault(**FAULTS[name], times=math.inf)]
    started = time.monotonic()
    calls = {
        "read": lambda: small.read_text("a/text"),
        "listed": lambda: small.names("a"),
        "written": lambda: small.write_text("a/text", "new"),
    }
    for done, call in calls.items():
        with pytest.raises(WorldFault) as caught:
            call()
        assert str(caught.value).startswith(small.url("a"))
        assert f": cannot be {done} (" in str(caught.value)
        assert "\n" not in str(caught.value)
    assert time.monotonic() - started < 30


def test_nobody_listens(store):
    away = Store("s3://aloe/run", settings("http://127.0.0.1:9", attempts=2))
    with pytest.raises(WorldFault, match=r"^s3://aloe/run/x: cannot be written \(.*127\.0\.0\.1:9"):
        away.write_text("x", "")
    with pytest.raises(UserError, match=r"^run\.dir s3://aloe/run: cannot be reached"):
        away.check_reachable()


def test_no_such_bucket_and_no_such_file(store, proxy):
    with pytest.raises(FileNotFoundError):
        store.read_text("nothing")
    with pytest.raises(UserError, match=r"^s3://nobucket/run/x: cannot be written"):
        Store("s3://nobucket/run", store.options).write_text("x", "")
    with pytest.raises(UserError, match=r"t\.parquet: missing"):
        store.read_table("t.parquet", PERSONAS)
    store.remove("nothing")


def test_large_data_becomes_visible_in_one_piece(store, proxy):
    old, new = b"old", bytes(range(256)) * (101 * MIB // 256)
    # 50 MiB in one request take a slow server longer than the time-out of the other tests.
    store = Store(store.root, store.options.model_copy(update={"timeout_s": 30.0}))
    store.write_bytes("large", old)
    proxy.faults = [Fault("error", "PUT", "partNumber=2", times=math.inf)]
    with pytest.raises(WorldFault, match="large: cannot be written"):
        store.write_bytes("large", new)
    assert store.read_bytes("large") == old
    # The last answer is lost: the upload has ended, and its id is unknown when it is asked again.
    proxy.faults = [
        Fault("drop", "PUT", "partNumber=1"),
        Fault("lost", "POST", "uploadId="),
        Fault("error", "POST", "uploadId=", status=404, code="NoSuchUpload"),
    ]
    store.write_bytes("large", new)
    assert all(fault.hits == 1 for fault in proxy.faults)
    proxy.requests.clear()
    assert store.read_bytes("large") == new
    assert [method for method, _ in proxy.requests] == ["GET"]  # so it is one version


def test_what_another_process_writes_is_seen_at_once(store):
    assert store.names("a") == []
    assert not store.exists("a", "x")
    elsewhere(store, "write_text", "a/x", "1")
    assert store.names("a") == ["x"]
    elsewhere(store, "write_text", "a/y", "1")
    assert store.exists("a", "y")
    assert store.read_text("a/x") == "1"
    elsewhere(store, "write_text", "a/x", "longer")
    assert store.read_text("a/x") == "longer"
    elsewhere(store, "remove", "a/x")
    assert not store.exists("a", "x")


def elsewhere(store: Store, method: str, *arguments: str) -> None:
    """Call a method of the store in another process, which gets it as Ray's workers do."""
    code = (
        "import pickle, sys; store = pickle.loads(bytes.fromhex(sys.argv[1]));"
        "getattr(store, sys.argv[2])(*sys.argv[3:])"
    )
    command = [sys.executable, "-c", code, pickle.dumps(store).hex(), method, *arguments]
    subprocess.run(command, check=True)


def flags(endpoint: str, root: str, attempts: int) -> list[str]:
    values = settings(endpoint, attempts).model_dump(exclude_none=True)
    return [f"--run.dir={root}", *(f"--storage.{key}={value}" for key, value in values.items())]


def begin(config: Config) -> Store:
    store = run_store(config)
    rows = persona_rows(["validation", *["train"] * 5])
    store.write_table("personas/personas.parquet", rows, PERSONAS)
    Manifest("personas", {}, "fixed", complete=True).save(store)
    return store


def test_a_run_through_faults_equals_a_quiet_run(proxy, scripted_config, tmp_path):
    made = []
    for root, faults in ((str(tmp_path / "disk"), []), ("s3://aloe/faults", mixed_faults())):
        proxy.faults = faults
        config = load_config(str(scripted_config), flags(proxy.url, root, attempts=8))
        store = begin(config)
        rollout_dialogues(config, store)
        build_preferences(config, store)
        nodes = store.read_table("dialogue/nodes", NODES)
        files = ("preferences/pairs.parquet", "preferences/sft.parquet")
        made.append(
            [
                nodes.sort_by([("tree_id", "ascending"), ("node_id", "ascending")]),
                *(store.read_bytes(name) for name in files),
            ]
        )
    on_disk, on_s3 = made
    assert on_disk[0].num_rows > 0
    assert on_disk == on_s3
    assert {fault.kind for fault in proxy.faults if fault.hits} == {
        "error",
        "slow",
        "drop",
        "lost",
        "cut",
    }


def mixed_faults() -> list[Fault]:
    return [
        Fault("error", "PUT", "dialogue/nodes", times=2),
        Fault("lost", "PUT", "dialogue/nodes", times=2),
        Fault("slow", "PUT", "dialogue/nodes"),
        Fault("error", "GET", "list-type", times=2, status=503),
        Fault("cut", "GET", "dialogue/nodes", times=3),
        Fault("drop", "PUT", "preferences"),
        Fault("drop", "HEAD"),
    ]


@pytest.mark.parametrize(
    ("target", "code", "start"),
    [
        ("", 2, "run.dir s3://aloe/down: cannot be reached ("),
        ("dialogue/nodes/", 75, "dialogue: s3://aloe/down/dialogue/nodes/"),
    ],
    ids=["before the start", "in a worker"],
)
def test_a_server_that_is_down_is_one_line_and_an_exit_code(
    proxy, scripted_config, capfd, target, code, start
):
    arguments = [*flags(proxy.url, "s3://aloe/down", attempts=2), "--run.patience_s", "2"]
    begin(load_config(str(scripted_config), arguments))
    proxy.faults = [Fault("error", target=target, times=math.inf, status=503)]
    with pytest.raises(SystemExit) as left:
        main(["dialogue", "rollout", str(scripted_config), *arguments])
    assert left.value.code == code
    said = capfd.readouterr()
    lines = [line for line in (said.out + said.err).splitlines() if line.startswith("aloe: ")]
    assert len(lines) == 1
    assert lines[0].startswith(f"aloe: {start}")
