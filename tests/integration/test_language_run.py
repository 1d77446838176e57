"""Scripted runs in other languages, from the seeds to the page."""

import json

import pytest
from languages import ARABIC, CHINESE

from aloe.config import Config
from aloe.config_file import dump_config, load_config
from aloe.dialogue import rollout_dialogues
from aloe.personas import expand_personas
from aloe.preferences import build_preferences
from aloe.preferences.export import export_run
from aloe.report import write_report
from aloe.roles.sentences import finished, first_sentences, split_sentences
from aloe.schema import NODES, PAIRS, PERSONAS, POOL, SFT
from aloe.storage import Store, load_manifest

pytestmark = pytest.mark.usefixtures("local_ray")


@pytest.fixture(scope="module", params=[CHINESE, ARABIC], ids=lambda spoken: spoken.tag)
def spoken(request):
    return request.param


@pytest.fixture(scope="module")
def run(spoken, tmp_path_factory):
    folder = tmp_path_factory.mktemp(spoken.tag)
    written = Config.model_validate(spoken.values(folder))
    (folder / "run.yaml").write_text(dump_config(written), encoding="utf-8")
    config = load_config(str(folder / "run.yaml"))
    store = Store(config.run.dir)
    for stage in (expand_personas, rollout_dialogues, build_preferences, write_report):
        stage(config, store)
    return config, store


def rows(store, table, schema):
    return store.read_table(table, schema).to_pylist()


def test_personas_are_made_of_what_was_given_and_said(spoken, run):
    config, store = run
    texts = map(finished, config.models["script"].says)
    said = {sentence for text in texts for sentence in split_sentences(text, spoken.tag)}
    for name, seeds in (("profiles", spoken.facts), ("personalities", spoken.traits)):
        pool = rows(store, f"personas/{name}.parquet", POOL)
        sources = [row["source"] for row in pool]
        assert sources.count("seed") == 6 and sources.count("model") > 0
        for row in pool:
            sentences = set(split_sentences(row["text"], spoken.tag))
            if row["source"] == "seed":
                assert sentences == set(seeds)
            else:
                assert sentences <= said
    texts = "".join(
        row["profile"] + row["personality"]
        for row in rows(store, "personas/personas.parquet", PERSONAS)
    )
    assert not any(character.isascii() and character.isalpha() for character in texts)


def test_what_was_said_is_in_every_table_as_it_was_said(spoken, run):
    config, store = run
    says = config.models["script"].says
    said = {first_sentences(text, 3, spoken.tag) for text in says}
    for row in rows(store, "dialogue/nodes", NODES):
        assert row["text"] in (said if row["role"] == "user" else says)
    system = {"role": "system", "content": spoken.templates()["dialogue"]["reply_system.jinja"]}
    for table, schema, columns in (("sft", SFT, ["response"]), ("pairs", PAIRS, ["preferred"])):
        for row in rows(store, f"preferences/{table}.parquet", schema):
            assert row["prompt"][0] == system and all(row[column] in says for column in columns)


@pytest.mark.parametrize("kind", ["aloe", "openrlhf", "trl"])
def test_exports_hold_it_unescaped(run, kind, tmp_path):
    config, store = run
    names = export_run(store, kind, Store(str(tmp_path)))
    text = "".join(
        (tmp_path / name).read_text(encoding="utf-8") for name in names if name.endswith("jsonl")
    )
    assert any(saying in text for saying in config.models["script"].says)
    assert "\\u" not in text
    assert all(json.loads(line) for line in text.splitlines())


def test_the_card_names_the_language(spoken, run, tmp_path):
    _, store = run
    export_run(store, "hf", Store(str(tmp_path)))
    assert f"language:\n- {spoken.tag}\n" in (tmp_path / "README.md").read_text()


def test_the_page_shows_it_in_its_direction(spoken, run):
    config, store = run
    page = store.read_text("report", "index.html")
    saying = next(text for text in config.models["script"].says if f">{text}</p>" in page)
    assert f'<p class="said" dir="auto" lang="{spoken.tag}">{saying}</p>' in page


def test_language_and_templates_are_in_the_settings(spoken, run):
    _, store = run
    for stage in ("personas", "dialogue", "preferences"):
        settings = load_manifest(store, stage).settings
        assert settings["language"] == spoken.tag
        assert "/" not in json.dumps(settings.get(stage, {}).get("prompts", ""))
