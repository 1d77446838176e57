"""The rollout over real Ray Data, with speakers that need no model."""

from __future__ import annotations

import json
import threading

import pytest
from chat_server import ChatServer, Reply, judged
from scripted_runs import persona_rows

from aloe.config_file import load_config
from aloe.dialogue import rollout_dialogues
from aloe.dialogue.log import write_log
from aloe.dialogue.parts import count_start
from aloe.dialogue.retry import retry_failed
from aloe.errors import StageFailed, UserError
from aloe.schema import ERRORS, NODES, PERSONAS
from aloe.storage import Manifest, Store

JUDGED = judged()

pytestmark = pytest.mark.usefixtures("local_ray")


@pytest.fixture
def prepared(tmp_path, scripted_config):
    """Config and store of a run whose persona stage is done."""

    def make(name: str, *overrides: str):
        config = load_config(str(scripted_config), ["--run.dir", str(tmp_path / name), *overrides])
        store = Store(config.run.dir)
        rows = persona_rows([*["train"] * 9, "benchmark"])
        store.write_table("personas/personas.parquet", rows, PERSONAS)
        Manifest("personas", {}, "fixed", complete=True).save(store)
        return config, store

    return make


def files(store: Store) -> dict[str, bytes]:
    names = store.names("dialogue", "nodes")
    return {name: store.fs.cat_file(store.path("dialogue", "nodes", name)) for name in names}


def test_a_rerun_is_identical_byte_for_byte_and_a_resume_fills_the_gaps(prepared):
    config, store = prepared("one")
    manifest = rollout_dialogues(config, store)
    first = files(store)
    assert len(first) == 9  # few trees, so each is a part; the benchmark's persona has none
    assert manifest.counts == {
        "trees": 9,
        "nodes": 9 * 3 * 3,
        "comparisons": 9 * 3,
        "failed_trees": 0,
        "truncated": 0,
        "selected": 0,
        "ties": 0,
        "failed_turns": 0,
        "context_ends": 0,
    }
    assert manifest.usage.calls == 9 * 3 * 6
    assert not [name for name in first if "partial" in name]
    assert not store.exists("dialogue", "open")

    other_config, other = prepared("two", "--dialogue.actors", "{min: 2, max: 2, in_flight: 2}")
    rollout_dialogues(other_config, other)
    assert nodes(other) == nodes(store)

    # What a kill leaves: some parts are final, and the manifest is not complete.
    for name in store.names("dialogue", "parts")[::2]:
        store.remove("dialogue", "parts", name)
        store.remove("dialogue", "nodes", name.replace("json", "parquet"))
    kept = {name: store.fs.modified(store.path("dialogue", "nodes", name)) for name in files(store)}
    store.remove("dialogue", "manifest.json")
    resumed = rollout_dialogues(config, store)
    assert files(store) == first
    assert resumed.usage == manifest.usage
    for name, time in kept.items():
        assert store.fs.modified(store.path("dialogue", "nodes", name)) == time


def test_turns_are_counted_and_the_first_tree_is_shown_while_it_grows(prepared, capsys):
    config, store = prepared("one")
    rollout_dialogues(config, store)
    told = capsys.readouterr().err
    assert "dialogue trees: 0/9, turns 0/27" in told
    assert "dialogue trees: 9/9, turns 27/27" in told
    assert told.count("a tree, turn 1:") == told.count("a tree, turn 2:") == 1
    assert "a tree, turn 3:" not in told
    shown = told.partition("a tree, turn 1:")[2].splitlines()[1:6]
    assert [line.split()[0] for line in shown] == [
        "persona",
        "user",
        "noted",
        "guided",
        "unguided",
    ]
    assert sum("<- preferred" in line for line in shown) == 1


def nodes(store: Store) -> list[dict]:
    return store.read_table("dialogue/nodes", NODES).to_pylist()


@pytest.fixture
def four_trees(prepared):
    """A run with one part of four trees: one actor, all engines in it."""

    def make(name: str, *overrides: str):
        config, store = prepared(name, "--dialogue.part_size", "4", *overrides)
        rows = persona_rows(["benchmark", *["train"] * 4])
        store.write_table("personas/personas.parquet", rows, PERSONAS)
        store.write_text("dialogue/plan.json", '{"trees": 4, "part_size": 4, "rows": [[1, 4]]}')
        return config, store

    return make


@pytest.mark.parametrize("kept_turns", [1, 2, 3])
def test_an_open_tree_goes_on_from_its_last_finished_turn(four_trees, kept_turns):
    config, whole = four_trees("whole")
    rollout_dialogues(config, whole)
    (part,) = whole.names("dialogue", "nodes")
    trees = nodes(whole)

    # One tree was in flight, one had failed, two had not begun.
    config, store = four_trees("half")
    ids = list(dict.fromkeys(row["tree_id"] for row in trees))
    known = [row for row in trees if row["tree_id"] == ids[0] and row["turn"] <= kept_turns]
    known[0]["text"] = "Said before the kill."  # only a log can know this
    end = {"item_id": ids[1], "stage": "dialogue", "kind": "EngineError", "branch": 1, "calls": []}
    write_log(store, "00000000", 0, known, [end])
    manifest = rollout_dialogues(
        config.model_copy(update={"run": config.run.model_copy(update={"max_error_rate": 0.5})}),
        store,
    )
    assert store.names("dialogue", "nodes") == [part]
    again = nodes(store)
    assert {row["tree_id"] for row in again} == {ids[0], *ids[2:]}
    mine = [row for row in again if row["tree_id"] == ids[0]]
    assert mine[0]["text"] == "Said before the kill."
    assert [row["node_id"] for row in mine] == [
        row["node_id"] for row in trees if row["tree_id"] == ids[0]
    ]
    assert [row for row in again if row["tree_id"] in ids[2:]] == [
        row for row in trees if row["tree_id"] in ids[2:]
    ]
    assert manifest.counts["failed_trees"] == 1


def test_a_kill_between_the_data_and_its_marker_changes_nothing(four_trees):
    config, store = four_trees("run")
    first = rollout_dialogues(config, store)
    before = files(store)
    store.remove("dialogue", "parts")
    store.remove("dialogue", "manifest.json")
    again = rollout_dialogues(config, store)
    assert files(store) == before
    assert again.usage == first.usage


def test_a_part_that_ends_its_actor_each_time_is_given_up(four_trees):
    config, store = four_trees("poison", "--run.max_error_rate", "1")
    for _ in range(5):
        assert count_start(store, "00000000", turns=0) <= 5
    manifest = rollout_dialogues(config, store)
    assert manifest.counts["failed_trees"] == 4
    rows = store.read_table("dialogue/errors", ERRORS).to_pylist()
    assert {row["kind"] for row in rows} == {"ActorDied"}
    assert "the actor ended 5 times" in rows[0]["message"]


def test_a_part_that_gets_on_may_be_started_any_number_of_times(four_trees):
    _, store = four_trees("interrupted")
    assert [count_start(store, "00000000", turns) for turns in (0, 0, 3, 3, 5)] == [1, 2, 1, 2, 1]


def test_another_seed_makes_other_trees(prepared):
    one = prepared("one")
    two = prepared("two", "--run.seed", "4")
    rollout_dialogues(*one)
    rollout_dialogues(*two)
    ids = [{row["tree_id"] for row in nodes(store)} for _, store in (one, two)]
    assert not ids[0] & ids[1]


def test_changed_settings_are_refused_unless_always_and_begun_ones_if_never(prepared):
    config, store = prepared("one")
    first = rollout_dialogues(config, store)

    def changed(resume: str):
        return load_config_like(config, turns=5, tries=2, resume=resume)

    both = r"dialogue\.tries: 3 there, 2 now; dialogue\.turns: 3 there, 5 now"
    with pytest.raises(UserError, match=both):
        rollout_dialogues(changed("if-same"), store)
    with pytest.raises(UserError, match=r"was begun before, and run\.resume is never"):
        rollout_dialogues(changed("never"), store)
    assert rollout_dialogues(changed("always"), store) == first


def load_config_like(config, turns: int, tries: int, resume: str):
    dialogue = config.dialogue.model_copy(update={"turns": turns, "tries": tries})
    run = config.run.model_copy(update={"resume": resume})
    return config.model_copy(update={"dialogue": dialogue, "run": run})


def test_failed_turns_are_rows_and_too_many_of_them_a_failure_until_tried_again(prepared):
    def script(post):
        # One judge's answer is enough for a turn. A greeting is answered all the time.
        failing = post.number > 6 and broken.is_set() and post.text != "Hello"
        return Reply(body=JUDGED) if not failing else Reply(status=400)

    broken = threading.Event()
    broken.set()
    with ChatServer(script).running() as server:
        judge = f"{{backend: openai, model: m, base_url: '{server.url}', deadline_s: 1}}"
        overrides = ["--models.server", judge, "--roles.judge", "server", "--dialogue.tries", "1"]
        config, store = prepared("broken", *overrides)
        for _ in range(2):  # the second time nothing is asked again
            with pytest.raises(
                StageFailed, match=r"2[456] of 27 turns failed, \d of 9 trees have none at all"
            ) as failed:
                rollout_dialogues(config, store)
            trees = {row["tree_id"] for row in nodes(store)}
            assert f" {9 - len(trees)} of 9 trees" in str(failed.value)
        asked = len(server.posts)
        rows = store.read_table("dialogue/errors", ERRORS).to_pylist()
        assert len(rows) == 9
        assert {(row["role"], row["kind"]) for row in rows} == {("judge", "EngineError")}
        kept = nodes(store)
        assert all(
            row["branch"] > 1 for row in rows if row["item_id"] in {n["tree_id"] for n in kept}
        )

        broken.clear()
        assert retry_failed(store) == 9
        assert retry_failed(store) == 0
        manifest = rollout_dialogues(config, store)
    assert manifest.counts["trees"] == 9
    assert manifest.counts["failed_turns"] == 0
    assert not store.finished("dialogue", "errors")
    whole = nodes(store)
    assert len(whole) == 9 * 3 * 3
    assert len({row["node_id"] for row in whole}) == len(whole)
    assert all(row in whole for row in kept)
    judged = sum(call["tries"] for row in whole for call in row["calls"] if call["role"] == "judge")
    assert len(server.posts) - asked <= judged
    # What failed was paid for too.
    assert manifest.usage.calls == 9 * 3 * 6 + 9


def test_a_dialogue_that_outgrows_its_context_keeps_its_turns(prepared):
    def script(post):
        code = "context_length_exceeded"
        full = json.dumps({"error": {"message": "too long", "code": code}})
        third = post.text.count("Person: ") > 2
        return Reply(status=400, body=full) if third else Reply(body=JUDGED)

    with ChatServer(script).running() as server:
        judge = f"{{backend: openai, model: m, base_url: '{server.url}', deadline_s: 1}}"
        config, store = prepared("long", "--models.server", judge, "--roles.judge", "server")
        manifest = rollout_dialogues(config, store)
    counts = manifest.counts
    assert counts["trees"] == 9
    assert counts["failed_turns"] == counts["failed_trees"] == 0
    assert counts["context_ends"] > 0
    rows = store.read_table("dialogue/errors", ERRORS).to_pylist()
    assert {row["kind"] for row in rows} == {"context"}
    assert len(rows) == counts["context_ends"]
    assert retry_failed(store) == 0


def test_more_actors_than_the_cluster_can_place_are_refused_at_once(prepared):
    config, store = prepared("large", "--dialogue.actors", "{min: 64, max: 64}")
    with pytest.raises(UserError, match=r"dialogue\.actors: wants 64 CPUs"):
        rollout_dialogues(config, store)
