"""A run that may spend only so much: it stops in order, and goes on as if it never had."""

from __future__ import annotations

import subprocess
import sys

import pytest
import yaml
from evaluation_runs import make_config, make_run
from scripted_runs import persona_rows, scripted_values

from aloe.config import Config
from aloe.dialogue import rollout_dialogues
from aloe.dialogue.parts import count_start
from aloe.engines.account import tokens_of
from aloe.errors import StageStopped
from aloe.evaluation import evaluate_policies
from aloe.personas import expand_personas
from aloe.schema import NODES, PERSONAS, ROUNDS, SCORES
from aloe.storage import Manifest, Store, load_manifest
from aloe.storage.spending import spent_by_stage

TREES, TURNS, OPEN = 12, 4, 3


def values_of(folder, name: str) -> dict:
    values = scripted_values(folder, latency_s=0.01)
    values["run"]["dir"] = str(folder / name)
    values["models"]["script"]["price"] = {"prompt": 1000, "completion": 4000}
    return values


def rollout_of(folder, name: str) -> tuple[Config, Store]:
    """Twelve trees on two actors that hold three trees each."""
    values = values_of(folder, name)
    values["dialogue"] = {
        "turns": TURNS,
        "part_size": 2,
        "actors": {"min": 2, "max": 2, "in_flight": OPEN},
    }
    config = Config.model_validate(values)
    store = Store(config.run.dir)
    rows = persona_rows(["train"] * TREES + ["benchmark"])
    store.write_table("personas/personas.parquet", rows, PERSONAS)
    Manifest("personas", {}, "fixed", complete=True).save(store)
    return config, store


def limited(config: Config, **limits) -> Config:
    return config.model_copy(update={"run": config.run.model_copy(update=limits)})


def nodes(store: Store) -> list[dict]:
    return store.read_table("dialogue/nodes", NODES).to_pylist()


def turn_tokens(rows: list[dict]) -> int:
    """Tokens of the dearest turn."""
    turns: dict[tuple, int] = {}
    for row in rows:
        for call in row["calls"]:
            place = row["tree_id"], row["branch"]
            used = call["prompt_tokens"] + call["completion_tokens"]
            turns[place] = turns.get(place, 0) + used
    return max(turns.values())


@pytest.mark.usefixtures("local_ray")
def test_a_rollout_stops_at_its_limit_and_goes_on_to_the_same_trees(tmp_path, capsys):
    config, whole = rollout_of(tmp_path, "whole")
    usage = rollout_dialogues(config, whole).usage
    expected, total = nodes(whole), tokens_of(usage)
    assert tokens_of(spent_by_stage(whole)["dialogue"]) == total

    config, store = rollout_of(tmp_path, "limited")
    in_flight = 2 * OPEN * turn_tokens(expected)
    limit = int(0.4 * total)
    with pytest.raises(StageStopped, match=r"run\.max_tokens"):
        rollout_dialogues(limited(config, max_tokens=limit), store)
    spent = tokens_of(spent_by_stage(store)["dialogue"])
    assert limit <= spent <= limit + in_flight
    assert not load_manifest(store, "dialogue").complete
    assert not store.exists("dialogue", "errors")
    assert f"/{limit:,} tokens" in capsys.readouterr().err
    with pytest.raises(StageStopped):  # the same limit: at once, and nothing more is spent
        rollout_dialogues(limited(config, max_tokens=limit), store)
    assert tokens_of(spent_by_stage(store)["dialogue"]) == spent
    manifest = rollout_dialogues(limited(config, max_tokens=2 * total), store)
    assert nodes(store) == expected
    assert manifest.usage.calls == usage.calls
    assert tokens_of(spent_by_stage(store)["dialogue"]) == total  # nothing was paid for twice


@pytest.mark.usefixtures("local_ray")
def test_dollars_stop_a_rollout_and_a_stop_is_not_held_against_a_part(tmp_path):
    config, store = rollout_of(tmp_path, "dollars")
    for part in range(TREES):
        for _ in range(4):  # one more without a finished turn, and its trees would be given up
            count_start(store, f"{part:08d}", turns=0)
    with pytest.raises(StageStopped, match=r"run\.max_cost_usd 0\.01 are spent"):
        rollout_dialogues(limited(config, max_cost_usd=0.01), store)
    assert 0.01 <= spent_by_stage(store)["dialogue"].cost_usd < 60
    assert rollout_dialogues(config, store).counts["failed_trees"] == 0


@pytest.mark.usefixtures("local_ray")
def test_personas_end_with_whole_rounds_and_go_on_to_the_same_pools(tmp_path):
    def config_of(name: str) -> Config:
        return Config.model_validate(values_of(tmp_path, name))

    whole = Store(config_of("whole").run.dir)
    usage = expand_personas(config_of("whole"), whole).usage
    config = config_of("limited")
    store = Store(config.run.dir)
    with pytest.raises(StageStopped):
        expand_personas(limited(config, max_tokens=1), store)
    (first,) = spent_by_stage(store).values()
    assert 0 < tokens_of(first) < tokens_of(usage)
    for name in store.finished("personas", "rounds"):
        rows = store.read_table(f"personas/rounds/{name}.parquet", ROUNDS)
        assert rows.num_rows in (2, config.personas.requests_per_round)  # two at the start
    assert expand_personas(config, store).usage == usage
    for name in ("personas", "profiles", "personalities"):
        file = f"personas/{name}.parquet"
        assert store.read_bytes(file) == whole.read_bytes(file)


@pytest.mark.usefixtures("local_ray")
def test_open_cases_keep_their_turns(tmp_path):
    whole = make_run(tmp_path / "whole")
    manifest = evaluate_policies(make_config(tmp_path / "whole", 0.01), whole)
    store, config = make_run(tmp_path / "limited"), make_config(tmp_path / "limited", 0.01)
    some = tokens_of(manifest.usage) // 10
    with pytest.raises(StageStopped):
        evaluate_policies(limited(config, max_tokens=some), store)
    spent = tokens_of(spent_by_stage(store)["evaluation"])
    assert some <= spent < 5 * some
    assert store.finished("evaluation", "open")
    with pytest.raises(StageStopped):
        evaluate_policies(limited(config, max_tokens=some), store)
    again = evaluate_policies(config, store)
    assert again.results == manifest.results
    assert again.usage.calls == manifest.usage.calls
    assert tokens_of(spent_by_stage(store)["evaluation"]) == tokens_of(manifest.usage)
    assert not store.exists("evaluation", "open")
    columns = [name for name in SCORES.names if name != "calls"]
    tables = [s.read_table("evaluation/scores", SCORES, columns) for s in (whole, store)]
    assert tables[0].equals(tables[1])


def test_the_command_ends_with_75_and_one_line(tmp_path):
    values = values_of(tmp_path, "command")
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(values))

    def aloe(*arguments: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "aloe", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=300)

    expand = ("personas", "expand", str(path))
    stopped = aloe(*expand, "--run.max_tokens", "1")
    assert stopped.returncode == 75, stopped.stderr
    last = stopped.stderr.strip().splitlines()[-1]
    assert last.startswith("aloe: personas: stopped, as ")
    again = aloe(*expand, "--run.max_tokens", "1")
    assert (again.returncode, len(again.stderr.strip().splitlines())) == (75, 1)
