"""Rollouts that are killed or interrupted from outside, and gone on with by the same command."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from s3_server import bucket_of_the_environment
from scripted_runs import persona_rows, scripted_values

from aloe.schema import NODES, PERSONAS
from aloe.storage import Manifest, Store, load_manifest

TREES = 32


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    with bucket_of_the_environment() as url:
        yield url


@pytest.fixture
def prepared(tmp_path):
    """Config file and store of a run whose personas are there, at a place of its own."""

    def make(root: str) -> tuple[Path, Store]:
        values = scripted_values(tmp_path, latency_s=0.15)
        values["run"]["dir"] = root
        values["dialogue"]["actors"] = {"in_flight": 6}
        path = tmp_path / f"{root.rsplit('/', 1)[-1]}.yaml"
        path.write_text(yaml.safe_dump(values))
        store = Store(root)
        store.write_table("personas/personas.parquet", persona_rows(["train"] * TREES), PERSONAS)
        Manifest("personas", {}, "fixed", complete=True).save(store)
        return path, store

    return make


def rollout(config: Path, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "aloe", "dialogue", "rollout", str(config), *more]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=dict(os.environ))


def strike_in_the_middle(process: subprocess.Popen[str], store: Store, blow: int) -> float:
    """Send a signal when a part is final and trees are open; returns the seconds it took to end."""
    deadline = time.monotonic() + 120
    while not store.names("dialogue", "parts") or not store.names("dialogue", "open"):
        assert process.poll() is None, process.stderr.read()[-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    start = time.monotonic()
    process.send_signal(blow)
    process.wait(60)
    return time.monotonic() - start


def files(store: Store) -> dict[str, bytes]:
    names = [f"dialogue/nodes/{name}" for name in store.names("dialogue", "nodes")]
    return {name: store.read_bytes(name) for name in names}


def finish(config: Path) -> str:
    process = rollout(config)
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors[-3000:]
    return errors


def test_a_run_on_s3_killed_and_resumed_equals_an_undisturbed_one(bucket, prepared):
    config, store = prepared(f"{bucket}/killed")
    process = rollout(config)
    strike_in_the_middle(process, store, signal.SIGKILL)
    process.stderr.close()
    assert 1 <= len(files(store)) < TREES // 4
    assert not load_manifest(store, "dialogue").complete
    finish(config)

    config, undisturbed = prepared(f"{bucket}/undisturbed")
    finish(config)
    assert files(store) == files(undisturbed)
    assert len(files(store)) == TREES // 4
    usage = [load_manifest(place, "dialogue").usage for place in (store, undisturbed)]
    assert usage[0] == usage[1]


def test_ctrl_c_ends_in_seconds_and_leaves_a_run_to_go_on_with(tmp_path, prepared):
    config, store = prepared(str(tmp_path / "run"))
    process = rollout(config)
    seconds = strike_in_the_middle(process, store, signal.SIGINT)
    errors = process.stderr.read()
    assert process.returncode == 130
    assert seconds < 15
    assert "Traceback" not in errors
    assert "interrupted; the same command goes on from here" in errors
    finish(config)
    rows = store.read_table("dialogue/nodes", NODES, ["tree_id", "node_id"]).to_pylist()
    assert len({row["tree_id"] for row in rows}) == TREES
    assert len({row["node_id"] for row in rows}) == len(rows)


def test_on_s3_sigterm_ends_when_what_was_told_is_written(bucket, prepared):
    config, store = prepared(f"{bucket}/terminated")
    process = rollout(config)
    seconds = strike_in_the_middle(process, store, signal.SIGTERM)
    errors = process.stderr.read()
    assert process.returncode == 75, errors[-3000:]
    assert seconds < 10
    told = int(re.findall(r"turns (\d+)/", errors)[-1])
    kept = [
        store.read_table(f"dialogue/nodes/{name}", NODES, ["role"])["role"].to_pylist()
        for name in store.names("dialogue", "nodes")
    ]
    for part in store.names("dialogue", "open"):
        kept.append(store.read_table(f"dialogue/open/{part}", NODES, ["role"])["role"].to_pylist())
    assert sum(roles.count("user") for roles in kept) >= told > 0
    finish(config)
    rows = store.read_table("dialogue/nodes", NODES, ["tree_id"]).to_pylist()
    assert len({row["tree_id"] for row in rows}) == TREES


def test_sigterm_ends_within_10_s_with_code_75_and_loses_no_tree(tmp_path, prepared):
    config, store = prepared(str(tmp_path / "run"))
    process = rollout(config)
    seconds = strike_in_the_middle(process, store, signal.SIGTERM)
    errors = process.stderr.read()
    assert process.returncode == 75
    assert seconds < 10
    assert "Traceback" not in errors
    assert "terminated; the same command goes on from here" in errors
    kept = files(store)
    assert kept
    finish(config)
    rows = store.read_table("dialogue/nodes", NODES, ["tree_id", "node_id"]).to_pylist()
    assert len({row["tree_id"] for row in rows}) == TREES
    assert len({row["node_id"] for row in rows}) == len(rows)
    assert {name: data for name, data in files(store).items() if name in kept} == kept
