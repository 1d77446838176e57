import asyncio
import errno
import json
import os
from collections import Counter

import pytest

from aloe.config import DialogueConfig, ScriptedModel
from aloe.config_file import load_config
from aloe.dialogue.tree import TreeSeed, grow_tree
from aloe.engines.scripted import ScriptedEngine
from aloe.errors import StageFailed, UserError, WorldFault
from aloe.preferences import FORMATS, build_preferences, export_run
from aloe.roles import Persona
from aloe.schema import NODES, PAIRS, PROMPTS, SFT
from aloe.storage import Manifest, Store

ROLES = ("user", "inducer", "guided", "unguided", "judge")
SPLITS = ["train"] * 4 + ["validation"] * 2


def write_dialogue(store: Store, dialogue: DialogueConfig, per_part: int) -> None:
    """Trees grown by the scripted engine, several in a file."""
    engines = dict.fromkeys(ROLES, ScriptedEngine("s", ScriptedModel(backend="scripted")))
    nodes = []
    for number, split in enumerate(SPLITS):
        life = f"Life {number} between a garden, a market and a harbor"
        persona = Persona(f"p{number}", life, f"Character {number}", ("short", "picks_up"))
        start = TreeSeed(f"t{number}", persona, split, 0, "f")
        nodes.append(asyncio.run(grow_tree(start, engines, dialogue)).rows)
    for first in range(0, len(nodes), per_part):
        rows = [row for tree in nodes[first : first + per_part] for row in tree]
        store.write_table(f"dialogue/nodes/part-{first}.parquet", rows, NODES)
    settings = {
        "roles": {role: {"backend": "scripted"} for role in ROLES},
        "dialogue": dialogue.model_dump(mode="json", exclude={"actors"}),
    }
    Manifest(
        "dialogue", settings, "f", True, counts={"trees": 6}, results={"judge_agreement": 0.5}
    ).save(store)


@pytest.fixture
def run(tmp_path, scripted_config):
    store = Store(str(tmp_path / "run"))
    write_dialogue(store, DialogueConfig(turns=2), per_part=1)
    return store, load_config(str(scripted_config))


@pytest.fixture
def branched(tmp_path, scripted_config):
    """Trees of seven turns with two pairs of replies at each."""
    store = Store(str(tmp_path / "branched"))
    write_dialogue(store, DialogueConfig(turns=3, branching="both", samples=2), per_part=4)
    return store, load_config(str(scripted_config))


def test_no_persona_is_in_two_splits(run):
    store, config = run
    counts = build_preferences(config, store).counts
    assert (counts["turns"], counts["pairs_train"], counts["pairs_validation"]) == (12, 8, 4)
    for name, schema in (("sft", SFT), ("pairs", PAIRS), ("prompts", PROMPTS)):
        rows = store.read_table(f"preferences/{name}.parquet", schema).to_pylist()
        split_of = {}
        for row in rows:
            assert split_of.setdefault(row["persona_id"], row["split"]) == row["split"]
        assert len(split_of) == 6


def test_a_second_build_does_nothing(run):
    store, config = run
    first = build_preferences(config, store)
    assert build_preferences(config, store) == first


def test_every_node_with_siblings_makes_rows(branched):
    store, config = branched
    counts = build_preferences(config, store).counts
    assert counts["turns"] == 6 * 7
    assert counts["comparisons"] == counts["pairs"] == 6 * 7 * 2
    pairs = store.read_table("preferences/pairs.parquet", PAIRS).to_pylist()
    sft = store.read_table("preferences/sft.parquet", SFT).to_pylist()
    prompts = store.read_table("preferences/prompts.parquet", PROMPTS).to_pylist()
    assert len({row["pair_id"] for row in pairs}) == len(pairs) == 84
    assert len({row["row_id"] for row in sft}) == len(sft) == 84
    assert [row["persona_id"] for row in prompts] == [f"p{number}" for number in range(6)]
    assert Counter(row["turn"] for row in pairs) == {1: 12, 2: 24, 3: 48}
    assert {len(row["prompt"]) - 2 * row["turn"] for row in pairs} == {0}
    assert {(*row["prompt"][-1].values(),) for row in pairs} == {
        (*row["prompt"][-1].values(),) for row in sft
    }


def test_how_trees_are_divided_into_files_does_not_matter(branched, tmp_path):
    store, config = branched
    other = Store(str(tmp_path / "other"))
    write_dialogue(other, DialogueConfig(turns=3, branching="both", samples=2), per_part=2)
    for each in (store, other):
        build_preferences(config, each)
    for name in ("sft", "pairs", "prompts"):
        one, two = (s.read_bytes(f"preferences/{name}.parquet") for s in (store, other))
        assert one == two


def test_sft_can_learn_the_kept_pairs_alone(branched):
    store, config = branched
    found = {}
    for learned in ("all", "pairs"):
        values = {"sft_rows": learned, "drop_disagreements": True}
        preferences = config.preferences.model_copy(update=values)
        folder = Store(str(store.root) + f"-{learned}")
        write_dialogue(folder, DialogueConfig(turns=3, branching="both", samples=2), per_part=4)
        counts = build_preferences(
            config.model_copy(update={"preferences": preferences}), folder
        ).counts
        sft = folder.read_table("preferences/sft.parquet", SFT).to_pylist()
        pairs = folder.read_table("preferences/pairs.parquet", PAIRS).to_pylist()
        assert counts["sft_rows"] == len(sft)
        found[learned] = (
            Counter(json.dumps([row["prompt"], row["response"]]) for row in sft),
            Counter(json.dumps([row["prompt"], row["preferred"]]) for row in pairs),
        )
    assert found["pairs"][0] == found["pairs"][1] == found["all"][1]
    assert found["all"][1].total() < found["all"][0].total()


def test_sft_can_learn_only_what_meets_enough_of_the_preferences(branched):
    store, config = branched
    exemplary = config.preferences.model_copy(update={"sft_min_met": 0.6})
    counts = build_preferences(config.model_copy(update={"preferences": exemplary}), store).counts
    sft = store.read_table("preferences/sft.parquet", SFT).to_pylist()
    assert 0 < counts["sft_rows"] == len(sft) < counts["comparisons"] == counts["pairs"]
    found = Counter((row["tree_id"], row["response"]) for row in sft)
    wanted = {"garden", "market", "harbor"}
    assert found == Counter(
        (row["tree_id"], row["preferred"])
        for row in store.read_table("preferences/pairs.parquet", PAIRS).to_pylist()
        if wanted & set(row["preferred"].lower().strip(".").split())
    )


def test_filters_that_leave_no_row_for_sft_are_a_failure(run):
    store, config = run
    strict = config.preferences.model_copy(update={"sft_min_met": 1.0})
    for part in store.names("dialogue/nodes"):
        rows = store.read_table(f"dialogue/nodes/{part}", NODES).to_pylist()
        held = [row | {"preferences": ["long"]} for row in rows]
        store.write_table(f"dialogue/nodes/{part}", held, NODES)
    with pytest.raises(StageFailed, match="sft_min_met"):
        build_preferences(config.model_copy(update={"preferences": strict}), store)
    assert store.names("preferences") == ["manifest.json"]


def test_filters_that_leave_nothing_are_a_failure(run):
    store, config = run
    strict = config.preferences.model_copy(update={"min_margin": 1.0})
    with pytest.raises(StageFailed, match="min_margin"):
        build_preferences(config.model_copy(update={"preferences": strict}), store)
    assert store.names("preferences") == ["manifest.json"]


@pytest.mark.parametrize("kind", FORMATS)
def test_export_wants_finished_preferences(run, kind, tmp_path):
    store, _ = run
    with pytest.raises(UserError, match="not complete"):
        export_run(store, kind, Store(str(tmp_path / "out")))


def _jsonl(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_published_format_has_the_published_field_names(run, tmp_path):
    store, config = run
    build_preferences(config, store)
    export_run(store, "aloe", Store(str(tmp_path / "out")))
    rows = _jsonl(tmp_path / "out" / "train.jsonl")
    assert len(rows) == 4
    for row in rows:
        assert set(row) == {"profile", "personality", "conversations"}
        for turn in row["conversations"]:
            assert set(turn) == {
                "user",
                "assistant",
                "chosen",
                "inferred_profile",
                "inferred_personality",
            }
            assert set(turn["assistant"]) == {"preferred", "rejected"}
            assert turn["chosen"] in turn["assistant"]
            assert isinstance(turn["inferred_profile"], str)


def test_published_format_holds_the_spine_alone_and_says_so(branched, run, tmp_path):
    for (store, config), left_out in ((branched, 6 * 4), (run, 0)):
        build_preferences(config, store)
        target = tmp_path / f"out-{left_out}"
        names = export_run(store, "aloe", Store(str(target)))
        assert names == ["train.jsonl", "validation.jsonl", "README.md"]
        nodes = store.read_table("dialogue/nodes", NODES).to_pylist()
        spine = [node["text"] for node in nodes if node["on_spine"] and node["split"] == "train"]
        said = [
            text
            for row in _jsonl(target / "train.jsonl")
            for turn in row["conversations"]
            for text in (turn["user"], turn["assistant"][turn["chosen"]])
        ]
        assert said == spine
        readme = (target / "README.md").read_text()
        assert "A line holds the spine" in readme
        assert "| train.jsonl | 4 |" in readme
        assert (f"{left_out} turns on other branches are left out" in readme) == bool(left_out)


def test_other_formats_hold_all_branches(branched, tmp_path):
    store, config = branched
    build_preferences(config, store)
    export_run(store, "trl", Store(str(tmp_path / "trl")))
    assert len(_jsonl(tmp_path / "trl" / "dpo_train.jsonl")) == 4 * 7 * 2
    export_run(store, "hf", Store(str(tmp_path / "hf")))
    card = (tmp_path / "hf" / "README.md").read_text()
    assert "| sft | validation | 28 |" in card
    assert "so it branches; rows come from all branches" in card
    assert "sampled 2 times" in card


def test_trl_and_openrlhf_rows_are_conversations(run, tmp_path):
    store, config = run
    build_preferences(config, store)
    for kind in ("trl", "openrlhf"):
        export_run(store, kind, Store(str(tmp_path / kind)))
        rows = _jsonl(tmp_path / kind / "dpo_train.jsonl")
        assert len(rows) == 8
        assert {row["prompt"][-1]["role"] for row in rows} == {"user"}
        assert all(row["chosen"] != row["rejected"] for row in rows)


def test_datasets_opens_the_hf_folder(run, tmp_path):
    import datasets

    store, config = run
    build_preferences(config, store)
    folder = tmp_path / "hf"
    export_run(store, "hf", Store(str(folder)))
    pairs = datasets.load_dataset(str(folder), "pairs", cache_dir=str(tmp_path / "cache"))
    assert {name: len(split) for name, split in pairs.items()} == {"train": 8, "validation": 4}
    assert pairs["train"][0]["prompt"][0]["role"] == "system"
    sft = datasets.load_dataset(str(folder), "sft", cache_dir=str(tmp_path / "cache"))
    assert len(sft["train"]) == 8
    card = (folder / "README.md").read_text()
    assert "| pairs | train | 8 |" in card


@pytest.mark.parametrize("kind", FORMATS)
def test_an_export_to_a_full_disk_is_the_worlds_fault(run, tmp_path, monkeypatch, kind):
    store, config = run
    build_preferences(config, store)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(WorldFault, match=r"cannot be written \(.*No space left"):
        export_run(store, kind, Store(str(tmp_path / "out")))
    assert not [file for file in (tmp_path / "out").rglob("*") if file.is_file()]


@pytest.mark.parametrize("kind", FORMATS)
def test_an_export_to_where_nothing_can_be_made_is_bad_input(run, kind):
    store, config = run
    build_preferences(config, store)
    with pytest.raises(UserError, match=r"/proc/none: cannot be written"):
        export_run(store, kind, Store("/proc/none"))
