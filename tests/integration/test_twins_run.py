"""A whole run with twins: a program plays their users, a policy trains itself in rounds."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from aloe.config import Config
from aloe.errors import NotResumable, UserError
from aloe.pipeline import run_all
from aloe.preferences.export import export_run
from aloe.report.twins import choose_twins
from aloe.rounds import train_rounds
from aloe.schema import DIALOGUES, NODES, PAIRS, PERSONAS, SCORES, SFT
from aloe.storage import Store, load_manifest
from aloe.storage.spending import spent_by_stage
from aloe.storage.tables import read_parts
from aloe.verifiable import Person, conversation, hinted, share_met, twin_of

pytestmark = pytest.mark.usefixtures("local_ray")

TURNS = 3
STEP = {"batch_size": 4, "max_len": 512, "learning_rate": 1e-3, "zero_stage": 0}
PPO = {
    **STEP,
    "updates": 1,
    "samples": 2,
    "turns": 2,
    "start_from": "rounds",
    "estimator": "group_norm",
    "warmup_ratio": 0,
    "sampling": {"temperature": 1.0, "top_p": 1.0, "max_tokens": 27},
    "eval_dialogues": 2,
}


def values(folder: Path) -> dict[str, Any]:
    talk = {"temperature": 1.0, "top_p": 1.0, "max_tokens": 27}  # about as many words as are long
    tiny = {"backend": "vllm", "path": "embedded://tiny", "max_model_len": 1024, "max_num_seqs": 16}
    return {
        "run": {"dir": str(folder / "run"), "seed": 0},
        "ray": {"num_cpus": 4, "logical_gpus": 4},
        "models": {
            "tiny": tiny,
            "checks": {"backend": "verifiable"},
            "script": {"backend": "scripted"},
        },
        "roles": {
            **dict.fromkeys(("user", "inducer", "judge"), "checks"),
            **dict.fromkeys(("guided", "unguided"), "tiny"),
        },
        "personas": {
            "writer": "script",
            "profiles": {"size": 24},
            "personalities": {"size": 24},
            "twins": {"count": 1, "pairs": ["length"]},
            "heldout_profiles": 2,
            "heldout_personalities": 2,
            "personalities_per_profile": 2,
            "max_personas": 10,
        },
        "dialogue": {
            "turns": TURNS,
            "select": {"samples": 3, "slips": 0.3},
            "sampling": talk,
        },
        "preferences": {"validation_share": 0.3, "twins": True, "min_margin": 0.2},
        "training": {
            "base": "embedded://tiny",
            "sft": STEP,
            "rounds": {"steps": ["sft", "dpo"], "samples": 4, "slips": 0.2, "conversations": 14},
            "dpo": {**STEP, "beta": 0.1, "start_from": "rounds"},
            "ppo": PPO,
        },
        "evaluation": {
            "policies": {
                "base": "base",
                "rounds": "rounds",
                "swapped": "rounds",
                "ppo": "ppo",
                "random": "program:random",
                "ideal": "program:ideal",
            },
            "conditions": {"swapped": {"reads": "twin"}},
            "turns": TURNS,
            "bootstrap_samples": 100,
            "sampling": talk,
        },
    }


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, local_ray: None) -> tuple[Config, Store]:
    config = Config.model_validate(values(tmp_path_factory.mktemp("twins")))
    assert run_all(config)
    return config, Store(config.run.dir)


def people(store: Store) -> dict[str, dict[str, Any]]:
    rows = store.read_table("personas/personas.parquet", PERSONAS).to_pylist()
    return {row["persona_id"]: row for row in rows}


def test_every_conversation_is_what_its_program_says(run):
    _, store = run
    for folder in (store, Store(store.url("training/rounds/01"))):
        trees: dict[str, list[dict[str, Any]]] = {}
        for nodes in read_parts(folder, "dialogue/nodes", NODES):
            for row in nodes:
                trees.setdefault(row["tree_id"], []).append(row)
        for rows in trees.values():
            first = rows[0]
            replies = [r["text"] for r in rows if r["role"] != "user" and r["on_spine"]]
            steps = conversation(
                Person(first["twin_id"], tuple(first["preferences"])), replies[:-1]
            )
            said = [(r["text"], r["hint"]) for r in rows if r["role"] == "user"]
            assert said == [(step.text, step.hint) for step in steps]
            for row in rows:
                if row["role"] != "user":
                    known = hinted(steps[: row["turn"]])
                    assert row["met"] == share_met(known, row["text"], "")


def test_a_round_begins_with_the_one_before_and_talks_of_other_things(run):
    config, store = run
    first, second = (Store(store.url(f"training/rounds/{n:02d}")) for n in (1, 2))
    begun = [load_manifest(first, "training/sft"), load_manifest(second, "training/dpo")]
    assert [manifest.settings["base"] for manifest in begun] == [
        store.url("training/sft/checkpoint"),
        first.url("training/sft/checkpoint"),
    ]
    assert config.training.checkpoint_of("rounds") == ("training/rounds/02/training/dpo/checkpoint")
    twins = [{row["twin_id"] for row in people(which).values()} for which in (store, first, second)]
    assert not twins[0] & twins[1] and not twins[1] & twins[2]
    assert len(people(first)) == 14
    everyone = people(store)
    assert all(everyone[name]["split"] != "benchmark" for name in people(first))
    curves = load_manifest(store, "training/rounds").results["curves"]
    assert list(curves) == ["teacher", "round 1", "round 2"]


def test_training_rows_are_selected_replies_and_twin_pairs(run):
    _, store = run
    known = people(store)
    for row in store.read_table("preferences/sft.parquet", SFT).to_pylist():
        kinds = known[row["persona_id"]]["preferences"]
        assert share_met(kinds, row["response"], "") == 1  # one pair: what is hinted at is all
    pairs = store.read_table("preferences/pairs.parquet", PAIRS).to_pylist()
    for own, other in zip(pairs[::2], pairs[1::2], strict=True):
        one, two = (known[row["persona_id"]] for row in (own, other))
        assert one["twin_id"] == two["twin_id"]
        assert tuple(two["preferences"]) == twin_of(one["preferences"])
        for row, persona in ((own, one), (other, two)):
            shares = [
                share_met(persona["preferences"], row[k], "") for k in ("preferred", "rejected")
            ]
            assert shares == [1, 0]


def test_the_benchmark_is_over_twins_and_nobody_who_guesses_gains(run):
    _, store = run
    results = load_manifest(store, "evaluation").results
    assert results["units"] == "twin pairs"
    for name, numbers in results["policies"].items():
        assert numbers["cases"] == 4
        levels = [point["value"] for point in numbers["al"]]
        assert levels[0] == pytest.approx(3.0)
        if name in ("base", "random"):
            assert levels == pytest.approx([3.0] * TURNS)
    ideal = [point["value"] for point in results["policies"]["ideal"]["al"]]
    assert ideal == pytest.approx([3.0, 5.0, 5.0])
    known = results["knowable"]
    assert known["entropy"] == pytest.approx(math.log(2))
    for numbers in known["policies"].values():
        assert [p["value"] for p in numbers["nats"]] == pytest.approx([0, *[math.log(2)] * 2])
        assert [p["value"] for p in numbers["best"]] == pytest.approx([3, 5, 5])


def test_cases_have_held_out_wordings(run):
    _, store = run
    everyone = people(store)
    rows = store.read_table("evaluation/scores", SCORES).to_pylist()
    cases: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        cases.setdefault(row["case_id"], []).append(row)
    for turns in cases.values():
        turns.sort(key=lambda row: row["turn"])
        persona = everyone[turns[0]["persona_id"]]
        plan = Person(persona["twin_id"], tuple(persona["preferences"]), "heldout")
        steps = conversation(plan, [row["reply"] for row in turns[:-1]])
        assert [row["user"] for row in turns] == [step.text for step in steps]


def test_ppo_talks_with_the_same_users(run):
    _, store = run
    everyone = people(store)
    names = store.names("training/ppo/dialogues")
    rows = store.read_table(f"training/ppo/dialogues/{names[-1]}", DIALOGUES).to_pylist()
    assert rows
    for row in rows:
        assert row["twin_id"] == everyone[row["persona_id"]]["twin_id"]
        assert row["reward"] == share_met(row["preferences"], row["reply"], "")


def test_the_page_shows_them(run):
    config, store = run
    page = store.read_text("report/index.html")
    assert 'id="twins"' in page
    assert 'id="trees"' not in page
    assert "<svg" in store.read_text("report/alignment.svg")
    assert choose_twins(store, config.report.trees, config.run.seed)


def test_other_settings_of_a_round_are_other_rounds(run):
    config, store = run
    steeper = config.training.sft.model_copy(update={"learning_rate": 2e-3})
    training = config.training.model_copy(update={"sft": steeper})
    with pytest.raises(NotResumable, match=r"sft\.learning_rate"):
        train_rounds(config.model_copy(update={"training": training}), store)


def test_what_rounds_have_spent_counts_for_the_run(run):
    _, store = run
    inner = [Store(store.url(f"training/rounds/{n:02d}")) for n in (1, 2)]
    spent = [usage.calls for folder in inner for usage in spent_by_stage(folder).values()]
    assert spent_by_stage(store)["training/rounds"].calls == sum(spent) > 0


def test_selected_replies_are_exported_but_to_the_format_of_judged_pairs(run, tmp_path):
    _, store = run
    export_run(store, "hf", Store(str(tmp_path / "hf")))
    with pytest.raises(UserError, match="expected --format hf, trl or openrlhf"):
        export_run(store, "aloe", Store(str(tmp_path / "aloe")))


def test_a_second_start_has_nothing_to_do(run):
    config, _ = run
    assert not run_all(config)
