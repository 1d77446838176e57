"""A server that goes away in mid-run: nothing is lost, nothing failed, the same command goes on."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from scripted_runs import persona_rows
from trial_server import TrialServer

from aloe.config_file import dump_config, load_config
from aloe.dialogue import rollout_dialogues
from aloe.errors import StageStopped
from aloe.schema import NODES, PERSONAS
from aloe.storage import Manifest, Store

TREES = 16
ROLES = ("user", "inducer", "guided", "unguided", "judge")


@pytest.fixture
def prepared(tmp_path, scripted_config):
    """Config and store of a run whose personas are there and whose roles ask one server."""

    def make(url: str):
        model = f"{{backend: openai, model: trial, base_url: '{url}', deadline_s: 2}}"
        options = ["--run.dir", str(tmp_path / "run"), "--models.trial", model]
        roles = [word for role in ROLES for word in (f"--roles.{role}", "trial")]
        config = load_config(str(scripted_config), [*options, *roles])
        store = Store(config.run.dir)
        store.write_table("personas/personas.parquet", persona_rows(["train"] * TREES), PERSONAS)
        Manifest("personas", {}, "fixed", complete=True).save(store)
        return config, store

    return make


def all_trees_once(store: Store) -> None:
    rows = store.read_table("dialogue/nodes", NODES, ["tree_id", "node_id"]).to_pylist()
    assert len({row["tree_id"] for row in rows}) == TREES
    assert len({row["node_id"] for row in rows}) == len(rows) == TREES * 3 * 3


@pytest.mark.parametrize("mode", ["quota", "revoked", "gone", "dead"])
@pytest.mark.usefixtures("local_ray")
def test_what_the_world_does_is_no_trees_fault(prepared, mode):
    with TrialServer(mode).running() as server:
        config, store = prepared(server.url)
        with pytest.raises(StageStopped):
            rollout_dialogues(config, store)
        assert not store.names("dialogue", "errors")
        server.mode = "ok"
        manifest = rollout_dialogues(config, store)
    assert (manifest.counts["trees"], manifest.counts["failed_trees"]) == (TREES, 0)
    all_trees_once(store)


def test_the_command_says_so_and_goes_on(prepared, tmp_path):
    with TrialServer("quota").running() as server:
        config, store = prepared(server.url)
        file = tmp_path / "config.yaml"
        file.write_text(dump_config(config))
        command = [sys.executable, "-m", "aloe", "dialogue", "rollout", str(file)]
        stopped = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ))
        assert stopped.returncode == 75, stopped.stderr[-2000:]
        assert "quota" in stopped.stderr.strip().splitlines()[-1]
        server.mode = "ok"
        done = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ))
        assert done.returncode == 0, done.stderr[-2000:]
    assert not store.names("dialogue", "errors")
    all_trees_once(store)
