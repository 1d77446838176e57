import asyncio
import json

import pytest

from aloe.config import DialogueConfig, ScriptedModel
from aloe.config_file import load_config
from aloe.dialogue.tree import TreeSeed, grow_tree
from aloe.engines.scripted import ScriptedEngine
from aloe.errors import StageFailed, UserError
from aloe.preferences import FORMATS, build_preferences, export_run
from aloe.roles import Persona
from aloe.schema import NODES, PAIRS, PROMPTS, SFT
from aloe.storage import Manifest, Store

ROLES = ("user", "inducer", "guided", "unguided", "judge")
SPLITS = ["train"] * 4 + ["validation"] * 2


@pytest.fixture
def run(tmp_path, scripted_config):
    """A run whose trees are grown by the scripted engine."""
    store = Store(str(tmp_path / "run"))
    engines = dict.fromkeys(ROLES, ScriptedEngine("s", ScriptedModel(backend="scripted")))
    for number, split in enumerate(SPLITS):
        persona = Persona(f"p{number}", f"Life {number}", f"Character {number}")
        start = TreeSeed(f"t{number}", persona, split, 0, "f")
        rows = asyncio.run(grow_tree(start, engines, DialogueConfig(turns=2)))
        store.write_table(f"dialogue/nodes/t{number}.parquet", rows, NODES)
    settings = {"roles": {role: {"backend": "scripted"} for role in ROLES}}
    Manifest(
        "dialogue", settings, "f", True, counts={"trees": 6}, results={"judge_agreement": 0.5}
    ).save(store)
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


def test_filters_that_leave_nothing_are_a_failure(run):
    store, config = run
    strict = config.preferences.model_copy(update={"min_margin": 1.0})
    with pytest.raises(StageFailed, match="min_margin"):
        build_preferences(config.model_copy(update={"preferences": strict}), store)


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
