"""The rollout over real Ray Data, with speakers that need no model."""

from __future__ import annotations

import pytest
from scripted_runs import persona_rows

from aloe.config_file import load_config
from aloe.dialogue import rollout_dialogues
from aloe.errors import StageFailed, UserError
from aloe.schema import ERRORS, NODES, PERSONAS
from aloe.storage import Manifest, Store

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
    assert len(first) == 9  # the benchmark's persona is not rolled out
    assert manifest.counts == {"trees": 9, "nodes": 9 * 3 * 3, "failed_trees": 0}
    assert manifest.usage.calls == 9 * 3 * 6
    assert not [name for name in first if "partial" in name]

    other_config, other = prepared("two", "--dialogue.actors", "{min: 2, max: 2, in_flight: 2}")
    rollout_dialogues(other_config, other)
    assert files(other) == first

    # What a kill leaves: some trees are there, and the manifest is not complete.
    for name in list(first)[::2]:
        other.fs.rm_file(other.path("dialogue", "nodes", name))
    kept = {name: other.fs.modified(other.path("dialogue", "nodes", name)) for name in files(other)}
    other.fs.rm_file(other.path("dialogue", "manifest.json"))
    resumed = rollout_dialogues(other_config, other)
    assert files(other) == first
    assert resumed.usage == manifest.usage
    for name, time in kept.items():
        assert other.fs.modified(other.path("dialogue", "nodes", name)) == time


def test_another_seed_makes_other_trees(prepared):
    one = prepared("one")
    two = prepared("two", "--run.seed", "4")
    rollout_dialogues(*one)
    rollout_dialogues(*two)
    assert not set(files(one[1])) & set(files(two[1]))


def test_changed_settings_are_refused(prepared):
    config, store = prepared("one")
    rollout_dialogues(config, store)
    changed = config.dialogue.model_copy(update={"turns": 5})
    with pytest.raises(UserError, match=r"dialogue\.turns: 3 there, 5 now"):
        rollout_dialogues(config.model_copy(update={"dialogue": changed}), store)


def test_failed_trees_are_rows_and_too_many_of_them_a_failure(prepared):
    nobody = "{backend: openai, model: m, base_url: 'http://127.0.0.1:9/v1', timeout_s: 1}"
    overrides = ["--models.nobody", nobody, "--roles.judge", "nobody", "--dialogue.tries", "1"]
    config, store = prepared("broken", *overrides)
    with pytest.raises(StageFailed, match="9 of 9 trees failed"):
        rollout_dialogues(config, store)
    rows = store.read_table("dialogue/errors", ERRORS).to_pylist()
    assert len(rows) == 9
    assert {(row["role"], row["turn"], row["kind"]) for row in rows} == {
        ("judge", 1, "EngineError")
    }
    assert all("nobody" in row["message"] for row in rows)
    assert store.read_table("dialogue/nodes", NODES).num_rows == 0


def test_more_actors_than_the_cluster_can_place_are_refused_at_once(prepared):
    config, store = prepared("large", "--dialogue.actors", "{min: 64, max: 64}")
    with pytest.raises(UserError, match=r"dialogue\.actors: wants 64 CPUs"):
        rollout_dialogues(config, store)
