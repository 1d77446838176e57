"""An estimate before a run against what the run then takes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from scripted_runs import scripted_values

from aloe.storage import Store, load_manifest

STAGES = ("personas", "dialogue", "evaluation")


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("estimated")
    values = scripted_values(folder, latency_s=0.02)
    values["models"]["script"]["price"] = {"prompt": 100, "completion": 400}
    values["models"]["twin"] = {**values["models"]["script"], "price": {"prompt": 200}}
    values["personas"]["threshold"] = 1.0  # random words are never too close
    values["evaluation"]["policies"] = {"base": "model:script", "other": "model:twin"}
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def aloe(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "aloe", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=400)


def by_stage(done: subprocess.CompletedProcess) -> dict[str, dict]:
    assert done.returncode == 0, done.stderr
    return {stage["stage"]: stage for stage in json.loads(done.stdout)["stages"]}


def test_what_was_estimated_is_what_a_run_takes(config):
    run = Path(yaml.safe_load(config.read_text())["run"]["dir"])
    before = by_stage(aloe("estimate", str(config), "--json"))
    assert not run.exists()
    assert list(run.parent.glob("*.estimate")) == []
    assert set(before) == set(STAGES)
    assert {stage["source"] for stage in before.values()} == {"probe"}

    for command in (("personas", "expand"), ("dialogue", "rollout"), ("evaluate",)):
        done = aloe(*command, str(config))
        assert done.returncode == 0, done.stderr
    store = Store(str(run))
    for name in STAGES[1:]:  # how often a writer has to be asked is a guess, what a turn takes not
        usage, told = load_manifest(store, name).usage, before[name]
        assert told["calls"]["value"] == pytest.approx(usage.calls)
        for number in ("prompt_tokens", "completion_tokens", "cost_usd"):
            value = getattr(usage, number)
            assert told[number]["value"] == pytest.approx(value, rel=0.15), (name, number)
            assert told[number]["low"] <= told[number]["value"] <= told[number]["high"]
        assert 0 < told["hours"]["low"] <= told["hours"]["high"]
    after = by_stage(aloe("run", str(config), "--estimate", "--json"))
    assert {stage["source"] for stage in after.values()} == {"complete"}
