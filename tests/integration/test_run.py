"""The whole method in one command: killed in the middle, completed, and then nothing left to do."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from scripted_runs import scripted_values

from aloe.config import Config
from aloe.schema import NODES, PAIRS, PERSONAS, SCORES
from aloe.stages import stages_of
from aloe.storage import Store, load_manifest


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Path:
    """Scripted talk that takes its time, real training of the tiny model, vLLM in the benchmark."""
    folder = tmp_path_factory.mktemp("whole")
    tiny = {
        "backend": "vllm",
        "path": "embedded://tiny",
        "max_model_len": 1024,
        "max_num_seqs": 16,
    }
    values = scripted_values(folder, latency_s=0.05)
    values["models"]["tiny"] = tiny
    values["dialogue"] |= {"actors": {"in_flight": 2}, "part_size": 1}
    values["evaluation"] = {
        "policies": {"base": "model:tiny", "dpo": "dpo"},
        "turns": 2,
        "sampling": {"max_tokens": 16},
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def store_of(config: Path) -> Store:
    return Store(yaml.safe_load(config.read_text())["run"]["dir"])


def aloe_run(config: Path, *more: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "aloe", "run", str(config), *more]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ)
    )


def test_killed_in_the_middle_then_completed(config):
    store = store_of(config)
    process = aloe_run(config)
    deadline = time.monotonic() + 180
    while len(store.names("dialogue", "nodes")) < 3:
        assert process.poll() is None, process.stderr.read()[-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    process.stderr.close()
    half = {name: store.fs.modified(store.path("dialogue", "nodes", name)) for name in nodes(store)}
    assert 3 <= len(half) < 16
    assert not load_manifest(store, "dialogue").complete

    _, errors = (again := aloe_run(config)).communicate(timeout=800)
    assert again.returncode == 0, errors[-5000:]
    assert len(nodes(store)) == 16
    rows = store.read_table("dialogue/nodes", NODES, ["tree_id", "node_id"]).to_pylist()
    assert len({row["tree_id"] for row in rows}) == 16
    assert len({row["node_id"] for row in rows}) == len(rows) == 16 * 3 * 3
    for name, modified in half.items():
        assert store.fs.modified(store.path("dialogue", "nodes", name)) == modified


def nodes(store: Store) -> list[str]:
    return [name for name in store.names("dialogue", "nodes") if name.endswith(".parquet")]


def test_every_stage_left_what_it_promises(config):
    store = store_of(config)
    stages = stages_of(Config(**yaml.safe_load(config.read_text())))
    assert len(stages) == 7  # no reward model is asked for
    for name in stages:
        assert load_manifest(store, name).complete, name
    personas = store.read_table("personas/personas.parquet", PERSONAS).to_pylist()
    assert {row["split"] for row in personas} == {"train", "validation", "benchmark"}
    pairs = store.read_table("preferences/pairs.parquet", PAIRS).to_pylist()
    assert {row["split"] for row in pairs} == {"train", "validation"}
    scores = store.read_table("evaluation/scores", SCORES).to_pylist()
    assert len(scores) == 2 * 4 * 2
    assert all(1 <= row["score"] <= 5 for row in scores)
    dpo = load_manifest(store, "training/dpo").results
    assert dpo["train_loss_after"] < dpo["train_loss_before"]
    record = json.loads(store.read_text("run.json"))
    assert record["seed"] == 3
    assert record["versions"]["ray"]
    page = store.read_text("report", "index.html")
    assert "AL(k)" in page


def test_the_second_run_does_nothing_and_says_so(config):
    start = time.monotonic()
    process = aloe_run(config, "--json")
    lines, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert time.monotonic() - start < 10
    messages = [json.loads(line)["message"] for line in lines.splitlines()]
    assert any("nothing to do" in message for message in messages)


def test_tokens_in_manifests_are_those_of_the_rows(config):
    store = store_of(config)
    rows = store.read_table("dialogue/nodes", NODES, ["calls"]).to_pylist()
    calls = [call for row in rows for call in row["calls"]]
    usage = load_manifest(store, "dialogue").usage
    assert usage.prompt_tokens == sum(call["prompt_tokens"] for call in calls)
    assert usage.completion_tokens == sum(call["completion_tokens"] for call in calls)
    assert usage.calls == sum(call["tries"] for call in calls)
