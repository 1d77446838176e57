"""Whole personas that are given: their splits, their rows, and what is refused."""

import json

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scripted_runs import scripted_values

from aloe.config import Config
from aloe.errors import UserError
from aloe.personas import check_personas, expand_personas
from aloe.personas.splits import BENCHMARK, LEFT_OUT, TRAIN, VALIDATION, divide
from aloe.personas.stage import with_given_ids
from aloe.roles.prompts import render
from aloe.roles.speak import Persona
from aloe.schema import PERSONAS
from aloe.storage import Store


def configuration(folder, rows, **personas):
    source = folder / "given.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    values = scripted_values(folder)
    values["personas"] = {"given": [str(source)], "heldout_personas": 3} | personas
    return Config.model_validate(values)


def table(config):
    store = Store(config.run.dir)
    manifest = expand_personas(config, store)
    return manifest, store.read_table("personas/personas.parquet", PERSONAS).to_pylist()


@settings(max_examples=300, deadline=None)
@given(
    texts=st.lists(st.tuples(st.integers(1, 40), st.integers(0, 6)), min_size=2, max_size=60),
    heldout=st.integers(1, 10),
    most=st.none() | st.integers(1, 30),
    share=st.floats(0.01, 0.99),
    seed=st.integers(0, 10**6),
)
def test_nothing_of_the_benchmark_is_in_another_split(texts, heldout, most, share, seed):
    hashes = np.array([(left, right + 100 if right else 0) for left, right in texts], np.uint64)
    try:
        splits = divide(hashes, heldout, most, share, seed)
    except UserError as error:
        assert "personas.heldout_personas" in str(error)
        return
    tested = {value for row in hashes[splits == BENCHMARK].tolist() for value in row if value}
    learned = hashes[(splits == TRAIN) | (splits == VALIDATION)]
    assert (splits == BENCHMARK).sum() == heldout
    assert tested.isdisjoint(learned.flatten().tolist())
    assert 1 <= len(learned) <= (most or len(texts))
    if len(learned) > 1:
        assert (splits == TRAIN).any()
        assert (splits == VALIDATION).any()
    assert np.array_equal(splits, divide(hashes, heldout, most, share, seed))


@given(count=st.integers(3, 200), heldout=st.integers(1, 100), seed=st.integers(0, 99))
def test_personas_that_share_nothing_are_all_used(count, heldout, seed):
    assume(heldout < count)
    hashes = np.array([(number + 1, 0) for number in range(count)], np.uint64)
    splits = divide(hashes, heldout, None, 0.1, seed)
    assert (splits == BENCHMARK).sum() == heldout
    assert not (splits == LEFT_OUT).any()


def test_rows_keep_ids_and_repeats_are_left_out(tmp_path):
    rows = [{"id": f"n{i}", "profile": f"Life number {i}.", "personality": ""} for i in range(12)]
    rows += [
        {"profile": "Has no id.", "personality": ["Warm.", "Shy."]},
        {"profile": "Life number 4."},
    ]
    manifest, personas = table(configuration(tmp_path, rows))
    assert manifest.counts["personas"] == len(personas) == 13
    assert manifest.counts["repeated_personas"] == 1
    assert manifest.counts["benchmark_personas"] == 3
    ids = [row["persona_id"] for row in personas]
    assert {f"n{i}" for i in range(12)} < set(ids)
    assert [row["split"] for row in personas[-3:]] == ["benchmark"] * 3
    [other] = [row for row in personas if not row["persona_id"].startswith("n")]
    assert (other["profile"], other["personality"]) == ("Has no id.", "Warm. Shy.")
    assert personas[0]["profile_id"] is None


def test_case_and_punctuation_do_not_hide_a_shared_text(tmp_path):
    rows = [{"profile": f"Life {i // 2}{'!' * (i % 2)}"} for i in range(20)]
    _, personas = table(configuration(tmp_path, rows))
    words = {split: set() for split in ("train", "validation", "benchmark")}
    for row in personas:
        words[row["split"]].add(row["profile"].strip("!"))
    assert words["benchmark"].isdisjoint(words["train"] | words["validation"])


def test_checkable_preferences_are_told_in_the_personality(tmp_path):
    rows = [{"profile": f"Life number {i}."} for i in range(6)]
    _, personas = table(configuration(tmp_path, rows, verifiable={"count": 2}))
    assert all(len(row["preferences"]) == 2 for row in personas)
    assert all(row["personality"].startswith("In a chat: ") for row in personas)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"profile": "One."}, {"personality": "Two."}], r"given\.jsonl:2: no column profile"),
        ([{"profile": "One."}, {"profile": " "}], r"given\.jsonl:2: no text in profile"),
        ([{"profile": {"a": 1}}], r"given\.jsonl:1: column profile: expected text"),
        ([{"id": "x", "profile": "One."}, {"id": "x", "profile": "Two."}], "have the id x"),
        ([{"profile": "One."}, {"profile": "Two."}], "3 are to be held out of 2"),
        ([{"profile": f"{i}", "personality": "Shy."} for i in range(9)], "none of 9 given"),
    ],
)
def test_bad_input_is_named_before_anything_starts(tmp_path, rows, said):
    with pytest.raises(UserError, match=said):
        check_personas(configuration(tmp_path, rows))


@pytest.mark.parametrize("extra", [{"writer": "script"}, {"profiles": {"size": 3}}])
def test_given_personas_and_pools_exclude_each_other(tmp_path, extra):
    with pytest.raises(ValueError, match="given is set: expected no"):
        configuration(tmp_path, [], **extra)


def test_no_pool_is_no_configuration_without_given_personas(tmp_path):
    with pytest.raises(ValueError, match="expected writer, or given personas"):
        configuration(tmp_path, [], given=[])


def test_no_prompt_shows_a_heading_without_a_text():
    whole = Persona("id", "A shy nurse.", "")
    for name in ("user_system", "judge_system", "inducer_system"):
        prompt = render(f"dialogue/prompts/{name}.jinja", persona=whole)
        assert "A shy nurse." in prompt
        assert "haracter:" not in prompt
        assert "life:" not in prompt
    values = {"profile": whole.profile, "history": [], "reply": "Hi."}
    prompt = render("evaluation/prompts/score.jinja", **values, personality="")
    assert "About the person:\nA shy nurse.\n\nThe conversation" in prompt
    prompt = render("evaluation/prompts/score.jinja", **values, personality="Calm.")
    assert (
        "About the person's life:\nA shy nurse.\n\nAbout the person's character:\nCalm." in prompt
    )


def test_ids_of_pool_files_become_entry_ids(tmp_path):
    lines = ['"Plain."', '{"id": "a1", "text": "Named."}', '{"id": "a2", "text": "Named."}']
    (tmp_path / "pool.jsonl").write_text("\n".join(lines))
    values = scripted_values(tmp_path)
    values["personas"]["profiles"]["files"] = [str(tmp_path / "pool.jsonl")]
    config = Config.model_validate(values).personas
    rows = [
        {"pool": pool, "text": text, "entry_id": "hash"}
        for pool in ("profile", "personality")
        for text in ("Plain.", "Named.")
    ]
    found = [row["entry_id"] for row in with_given_ids(rows, config)]
    assert found == ["hash", "a1", "hash", "hash"]
    (tmp_path / "pool.jsonl").write_text(lines[1] + lines[2].replace("Named", "Other") * 2)
    assert with_given_ids(rows, config)[1]["entry_id"] == "a1"
    (tmp_path / "pool.jsonl").write_text(lines[1] + lines[1].replace("Named", "Other"))
    with pytest.raises(UserError, match="id a1: two texts have it"):
        with_given_ids(rows, config)
