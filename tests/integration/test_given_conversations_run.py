"""Given conversations in a run: trees go on from them, and their replies are judged."""

import json

import pytest
import yaml
from scripted_runs import scripted_values
from trial_server import AFTER, TrialServer

from aloe.checks import prepare
from aloe.config_file import load_config
from aloe.errors import StageStopped, UserError
from aloe.evaluation import judge_conversations
from aloe.pipeline import run_one
from aloe.preferences import export_run
from aloe.report import write_report
from aloe.schema import NODES, PAIRS, PROMPTS, SCORES, SFT
from aloe.storage import Store, run_store

pytestmark = pytest.mark.usefixtures("local_ray")


def talk(number, turns):
    return [
        {"from": who, "value": f"{who} {number}, {turn}."}
        for turn in range(turns)
        for who in ("human", "gpt")
    ]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def configuration(folder, **dialogue):
    values = scripted_values(folder)
    people = [{"id": f"p{i}", "profile": f"Nurse number {i}."} for i in range(12)]
    given = write(folder / "people.jsonl", people)
    values["personas"] = {"given": [given], "heldout_personas": 4}
    values["dialogue"] |= dialogue
    (folder / "config.yaml").write_text(yaml.safe_dump(values))
    return load_config(str(folder / "config.yaml"), [])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("start")
    rows = [{"persona_id": f"p{i}", "conversations": talk(i, 2)} for i in range(12) if i % 3]
    start = write(folder / "talks.jsonl", rows)
    config = configuration(folder, start=[start], turns=2, part_size=3)
    for stage in ("personas", "dialogue", "preferences"):
        assert run_one(config, stage).complete
    return config, run_store(config)


def test_trees_go_on_from_what_was_said_before(run):
    _, store = run
    nodes = store.read_table("dialogue/nodes", NODES).to_pylist()
    first = [node for node in nodes if node["role"] == "user" and node["parent_id"] is None]
    assert len(first) == 8
    for node in first:
        number = int(node["persona_id"][1:])
        said = [message["content"] for message in node["history"] or []]
        assert said == ([item["value"] for item in talk(number, 2)] if number % 3 else [])
    assert not any(node["history"] for node in nodes if node["parent_id"])


def test_training_rows_hold_it_and_learn_none_of_it(run):
    _, store = run
    for name, schema in (("sft", SFT), ("pairs", PAIRS), ("prompts", PROMPTS)):
        rows = store.read_table(f"preferences/{name}.parquet", schema).to_pylist()
        for row in rows:
            number = int(row["persona_id"][1:])
            said = [message["content"] for message in row["prompt"][1:5]]
            if number % 3:
                assert said == [item["value"] for item in talk(number, 2)]
            learned = [row.get(key) or "" for key in ("response", "preferred", "rejected")]
            assert not any(text.startswith("gpt ") for text in learned)


def test_exports_and_page_show_it(run, tmp_path):
    config, store = run
    export_run(store, "aloe", Store(str(tmp_path)))
    export_run(store, "trl", Store(str(tmp_path)))
    lines = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text().splitlines()]
    assert any(len(line.get("history", [])) == 4 for line in lines)
    rows = [json.loads(line) for line in (tmp_path / "sft_train.jsonl").read_text().splitlines()]
    assert any(row["prompt"][2]["content"].startswith("gpt ") for row in rows if row["prompt"][2:])
    write_report(config, store)
    assert "Goes on from a given conversation of 4 messages" in store.read_text(
        "report", "index.html"
    )


def test_conversations_that_name_nobody_are_given_out_in_order(tmp_path):
    rows = [{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}]
    rows += [{"conversations": talk(1, 1)}]
    config = configuration(tmp_path, start=[write(tmp_path / "talks.jsonl", rows)], turns=1)
    run_one(config, "personas")
    run_one(config, "dialogue")
    nodes = run_store(config).read_table("dialogue/nodes", NODES).to_pylist()
    begun = [node["history"][0]["content"] for node in nodes if node["role"] == "user"]
    assert sorted(begun) == ["a"] * 4 + ["human 1, 0."] * 4


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"conversations": talk(1, 1)[:1]}], r"talks\.jsonl:1: ends with the user's message"),
        (
            [{"persona_id": "p1", "conversations": talk(1, 1)}, {"conversations": talk(1, 1)}],
            r"talks\.jsonl:2: expected persona_id in all rows or in none",
        ),
        (
            [{"persona": "A nurse.", "conversations": talk(1, 1)}],
            r"talks\.jsonl:1: a persona without persona_id",
        ),
    ],
)
def test_what_cannot_be_gone_on_with_is_named_before_a_model_is_loaded(tmp_path, rows, said):
    config = configuration(tmp_path, start=[write(tmp_path / "talks.jsonl", rows)])
    with pytest.raises(UserError, match=said):
        prepare(config, run_store(config), ["dialogue"])


def test_given_replies_are_judged_by_turn(run, tmp_path, capsys):
    config, store = run
    rows = [
        {"persona_id": f"p{i}", "conversations": talk(i, 3 + i % 2)} for i in range(12) if i % 3
    ]
    known = {row["persona_id"] for row in store.read_table("dialogue/nodes", NODES).to_pylist()}
    rows = [row for row in rows if row["persona_id"] in known]
    rows += [{"persona": f"Cook {i}.", "conversations": talk(i, 3)} for i in range(40)]
    rows += [{"profile": "Cook 1.", "conversations": talk(99, 1)}]
    manifest = judge_conversations(config, store, write(tmp_path / "chats.jsonl", rows))
    scores = store.read_table("judged/chats/scores", SCORES).to_pylist()
    assert len(scores) == sum(len(row["conversations"]) // 2 for row in rows)
    assert manifest.counts == {"conversations": len(rows), "replies": len(scores), "failed": 0}
    results = manifest.results
    assert (results["turns"], results["shorter"]) == (3, 1)
    assert results["personas"] == results["cases"] == len(rows) - 1
    third = [row["score"] for row in scores if row["turn"] == 3]
    level = results["al"][2]
    assert level["value"] == pytest.approx(sum(third) / len(third))
    assert level["low"] < level["value"] < level["high"]
    assert "AL(3)" in capsys.readouterr().err
    again = judge_conversations(config, store, str(tmp_path / "chats.jsonl"))
    assert again.results == results


def test_what_was_judged_before_a_server_fell_silent_is_not_judged_again(tmp_path):
    path = write(
        tmp_path / "chats.jsonl",
        [{"persona": f"Cook {i}.", "conversations": talk(i, 3)} for i in range(40)],
    )
    with TrialServer("quota").running() as server:
        values = scripted_values(tmp_path)
        trial = {"backend": "openai", "model": "trial", "base_url": server.url}
        values["models"]["trial"] = trial | {"max_concurrency": 4}
        values["roles"]["judge"] = "trial"
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(values))
        config = load_config(str(tmp_path / "config.yaml"), [])
        store = run_store(config)
        with pytest.raises(StageStopped, match="quota"):
            judge_conversations(config, store, path)
        refused = server.count - AFTER
        kept = store.read_table("judged/chats/open", SCORES)
        server.mode = "ok"
        assert judge_conversations(config, store, path).counts["replies"] == 120
    assert len(kept) > 0
    asked = server.count - refused
    assert 120 <= asked <= 120 + AFTER - len(kept)
    assert not store.exists("judged", "chats", "open")


def test_conversations_of_one_reply_have_a_level_and_no_rise(run, tmp_path):
    config, store = run
    rows = [{"persona": f"Cook {i}.", "conversations": talk(i, 1)} for i in range(5)]
    results = judge_conversations(config, store, write(tmp_path / "short.jsonl", rows)).results
    assert len(results["al"]) == 1
    assert "ir" not in results


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"conversations": talk(1, 1)}, "no persona, expected persona, profile or persona_id"),
        ({"persona_id": "who", "conversations": talk(1, 1)}, "persona_id who is none of this"),
        ({"persona": "A cook.", "conversations": talk(1, 1)[:1]}, "no reply to judge"),
        ({"persona": "A cook.", "conversations": talk(1, 1)[::-1]}, "message 1: from the assis"),
    ],
)
def test_what_cannot_be_judged_is_named(run, tmp_path, row, said):
    config, store = run
    path = write(tmp_path / "bad.jsonl", [row])
    with pytest.raises(UserError, match=rf"bad\.jsonl:1: {said}"):
        judge_conversations(config, store, path)
    assert not store.exists("judged", "bad")
