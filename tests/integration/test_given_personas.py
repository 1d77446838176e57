"""A run on whole personas that are given: every stage after works on them, without a writer."""

import json
import re
from pathlib import Path

import pytest
import yaml
from scripted_runs import scripted_values

from aloe.config_file import load_config
from aloe.pipeline import run_one
from aloe.preferences import export_run
from aloe.report import write_report
from aloe.schema import NODES, PAIRS, PERSONAS, SCORES
from aloe.storage import Store, run_store

pytestmark = pytest.mark.usefixtures("local_ray")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("given")
    rows = [{"id": f"person-{i}", "profile": f"Nurse number {i}, shy."} for i in range(14)]
    (folder / "given.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    values = scripted_values(folder)
    values["personas"] = {"given": [str(folder / "given.jsonl")], "heldout_personas": 4}
    (folder / "config.yaml").write_text(yaml.safe_dump(values))
    config = load_config(str(folder / "config.yaml"), [])
    for stage in ("personas", "dialogue", "preferences", "evaluation"):
        assert run_one(config, stage).complete
    return config, run_store(config)


def test_the_given_ids_are_in_every_table(run):
    _, store = run
    personas = store.read_table("personas/personas.parquet", PERSONAS).to_pylist()
    of_split = {}
    for row in personas:
        of_split.setdefault(row["split"], set()).add(row["persona_id"])
    assert sum(map(len, of_split.values())) == 14
    talking = of_split["train"] | of_split["validation"]
    for name, schema in (("dialogue/nodes", NODES), ("preferences/pairs.parquet", PAIRS)):
        rows = store.read_table(name, schema).to_pylist()
        assert {row["persona_id"] for row in rows} == talking
    scores = store.read_table("evaluation/scores", SCORES).to_pylist()
    assert {row["persona_id"] for row in scores} == of_split["benchmark"]


def test_exports_and_page_show_them(run, tmp_path):
    config, store = run
    export_run(store, "aloe", Store(str(tmp_path)))
    line = json.loads((tmp_path / "train.jsonl").read_text().splitlines()[0])
    assert line["profile"].startswith("Nurse number")
    assert line["personality"] == ""
    write_report(config, store)
    page = store.read_text("report", "index.html")
    assert re.search(r"<dt>Persona</dt><dd[^>]*>Nurse number", page)
    assert "<dt>Personality</dt>" not in page.partition('id="trees"')[2].partition("<ol")[0]


def test_another_file_is_another_run(run):
    config, _ = run
    with Path(config.personas.given[0]).open("a") as file:
        file.write('{"profile": "One more."}\n')
    with pytest.raises(Exception, match="made with other settings"):
        run_one(config, "personas")
