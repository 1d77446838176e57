"""Rollouts of 16 trees whose server goes away in the middle: the same command goes on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading

import pytest
import yaml
from chat_server import ChatServer, Post, Reply, judged
from scripted_runs import persona_rows, scripted_values
from trial_server import TrialServer

from aloe.config_file import load_config
from aloe.dialogue import rollout_dialogues
from aloe.errors import StageStopped
from aloe.schema import NODES, PERSONAS
from aloe.storage import Manifest, Store, load_manifest

TREES, TURNS, WELL_FOR = 16, 3, 40
ROLES = ("user", "inducer", "guided", "unguided", "judge")

QUOTA = Reply(429, body=json.dumps({"error": {"message": "no", "code": "insufficient_quota"}}))
FAULTS = {
    "quota": (QUOTA, "RateLimitError: Error code: 429", 0),
    "key revoked": (Reply(401), "refuses the key", 0),
    "model gone": (Reply(404), "NotFoundError: Error code: 404", 0),
    "gateway dead": (Reply(503), "(InternalServerError: Error code: 503|given up after)", 3),
    "no route": (Reply(drop=True), "(APIConnectionError|given up after)", 3),
}
"""What the server does from a call on; what the last line says; seconds of patience."""


def broken_after(reply: Reply, well: threading.Event):
    def script(post: Post) -> Reply:
        return Reply(body=judged()) if post.number <= WELL_FOR or well.is_set() else reply

    return script


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.usefixtures("local_ray")
def test_an_outage_loses_nothing_and_a_resume_does_the_rest(tmp_path, fault, capsys):
    reply, said, patience_s = FAULTS[fault]
    well = threading.Event()
    store = store_with_personas(tmp_path)
    with ChatServer(broken_after(reply, well)).running() as server:
        config = load_config(str(write_config(tmp_path, server.url, patience_s)), [])
        with pytest.raises(StageStopped, match=f"^dialogue: server: .*{said}"):
            rollout_dialogues(config, store)
        told = capsys.readouterr().err
        assert ("waiting for it up to 3 s" in told) == bool(patience_s)
        assert len(server.posts) <= WELL_FOR + 30
        assert not store.names("dialogue", "errors")
        manifest = load_manifest(store, "dialogue")
        assert not manifest.complete
        assert manifest.wall_seconds > 0
        well.set()
        counts = rollout_dialogues(config, store).counts
    all_trees_once(store)
    assert counts["failed_trees"] == counts["failed_turns"] == 0
    assert not store.names("dialogue", "errors")


def test_the_command_says_so_and_goes_on(tmp_path):
    well = threading.Event()
    store = store_with_personas(tmp_path)
    with ChatServer(broken_after(Reply(503), well)).running() as server:
        config = write_config(tmp_path, server.url, patience_s=3)
        code, told = rollout(config)
        assert code == 75, told
        last = told.strip().splitlines()[-1]
        assert last.startswith("aloe: dialogue: server")
        assert last.endswith("; the same command goes on from here")
        assert "Traceback" not in told
        well.set()
        code, told = rollout(config)
        assert code == 0, told
    all_trees_once(store)


@pytest.mark.usefixtures("local_ray")
def test_what_passes_in_time_is_waited_for(tmp_path, capsys):
    down: list[float] = []

    def script(post: Post) -> Reply:
        if post.number > WELL_FOR and len(down) < 12:
            down.append(post.at)
            return Reply(503)
        return Reply(body=judged())

    store = store_with_personas(tmp_path)
    with ChatServer(script).running() as server:
        config = load_config(str(write_config(tmp_path, server.url, patience_s=60)), [])
        manifest = rollout_dialogues(config, store)
    told = capsys.readouterr().err
    assert "waiting for it up to 60 s" in told
    assert "over, going on" in told
    assert manifest.counts["trees"] == TREES


@pytest.mark.parametrize("mode", ["quota", "revoked", "gone", "dead"])
@pytest.mark.usefixtures("local_ray")
def test_it_is_so_too_where_all_roles_ask_that_server(tmp_path, mode):
    store = store_with_personas(tmp_path)
    with TrialServer(mode).running() as server:
        path = write_config(tmp_path, server.url, patience_s=2, roles=ROLES)
        config = load_config(str(path), [])
        with pytest.raises(StageStopped):
            rollout_dialogues(config, store)
        assert not store.names("dialogue", "errors")
        server.mode = "ok"
        manifest = rollout_dialogues(config, store)
    assert manifest.counts["failed_turns"] == 0
    all_trees_once(store)


def store_with_personas(folder) -> Store:
    store = Store(str(folder / "run"))
    store.write_table("personas/personas.parquet", persona_rows(["train"] * TREES), PERSONAS)
    Manifest("personas", {}, "fixed", complete=True).save(store)
    return store


def all_trees_once(store: Store) -> None:
    rows = store.read_table("dialogue/nodes", NODES, ["tree_id", "node_id"]).to_pylist()
    assert len({row["tree_id"] for row in rows}) == TREES
    assert len({row["node_id"] for row in rows}) == len(rows) == TREES * TURNS * 3


def write_config(folder, url: str, patience_s: float, roles=("judge",)):
    values = scripted_values(folder)
    values["run"]["patience_s"] = patience_s
    values["models"]["server"] = {
        "backend": "openai",
        "model": "trial",
        "base_url": url,
        "deadline_s": 0.5,
    }
    values["roles"] |= dict.fromkeys(roles, "server")
    values["dialogue"] = {"turns": TURNS, "actors": {"in_flight": 4}}
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def rollout(config) -> tuple[int, str]:
    command = [sys.executable, "-m", "aloe", "dialogue", "rollout", str(config)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, env={**os.environ})
    return done.returncode, done.stderr
