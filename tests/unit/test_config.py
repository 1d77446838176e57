from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, ValidationError

from aloe.config import Config
from aloe.config.section import Section
from aloe.config_file import dump_config, load_config, parse_overrides
from aloe.errors import UserError
from aloe.strict_yaml import parse_yaml

CONFIGS = ["configs/demo.yaml", "configs/rl_small.yaml", "configs/paper.yaml"]


@pytest.mark.parametrize("path", CONFIGS)
def test_shipped_configs_resolve_and_survive_a_round_trip(path, tmp_path):
    config = load_config(path)
    (tmp_path / "again.yaml").write_text(dump_config(config))
    assert load_config(str(tmp_path / "again.yaml")) == config


def test_paper_config_has_the_papers_numbers():
    config = load_config("configs/paper.yaml")
    profiles = config.personas.profiles.size - config.personas.heldout_profiles
    assert profiles * config.personas.personalities_per_profile == 3310
    assert config.personas.personalities.size - config.personas.heldout_personalities == 71
    assert config.personas.heldout_profiles * config.personas.heldout_personalities == 100
    assert (config.personas.threshold, config.personas.shown, config.personas.asked) == (0.6, 5, 20)
    assert (config.dialogue.turns, config.dialogue.tries) == (10, 3)
    assert config.dialogue.sampling.max_tokens == 300
    sft, dpo = config.training.sft, config.training.dpo
    assert (sft.learning_rate, sft.batch_size, sft.max_len, sft.packing) == (1e-5, 48, 8192, True)
    assert (dpo.learning_rate, dpo.batch_size, dpo.beta, dpo.epochs) == (1e-5, 48, 0.9, 1)


def test_overrides_reach_nested_keys(scripted_config):
    config = load_config(str(scripted_config), ["--dialogue.turns", "7", "--run.seed=9"])
    assert (config.dialogue.turns, config.run.seed) == (7, 9)


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["--dialogue.turn", "4"], "dialogue.turn: unknown key"),
        (["--dialogue.turns", "many"], "dialogue.turns"),
        (["--dialogue.turns", "0"], "dialogue.turns"),
        (["--roles.judge", "nobody"], "roles.judge names 'nobody'"),
        (["--evaluation.baseline", "x"], "evaluation.baseline"),
        (["--dialogue.turns"], "expected a value"),
        (["dialogue.turns", "4"], "expected --section.key VALUE"),
        (["--run.seed", "[1"], "not a YAML value"),
        (["--models.script.backend", "telepathy"], "models.script"),
        (["--a.b", "1", "--a.b.c", "2"], "already given a plain value"),
        (["--a.b", "1", "--a", "null"], "argument --a: 'a' was already given as {'b': 1}"),
        (["--run.seed", "0x_"], "argument --run.seed: '0x_' is not a YAML value"),
        (["--run.seed", "!!int x"], "argument --run.seed: '!!int x' is not a YAML value"),
        (["--report.title", "2024-02-30"], "expected a valid timestamp, or quotes"),
        (["--report.title", "[" * 3000], "is not a YAML value (nested too deeply)"),
        (["--report.title", "a\x01"], "the character U+0001 is not allowed"),
        (["--run.seed", "true"], "run.seed: Input should be a number"),
    ],
)
def test_bad_overrides_are_named_in_one_line(scripted_config, overrides, named):
    with pytest.raises(UserError) as caught:
        load_config(str(scripted_config), overrides)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["[1, 2]", "a: [", "\x00"])
def test_files_that_are_no_mapping_are_refused_by_name(tmp_path, text):
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=r"broken\.yaml"):
        load_config(str(path))


def test_every_key_has_a_sentence():
    def check(schema, where):
        for key, value in schema.get("properties", {}).items():
            if where != "Config" or "description" in value:
                assert value.get("description", "").strip().endswith("."), f"{where}.{key}"

    document = Config.model_json_schema()
    for name, section in document["$defs"].items():
        check(section, name)
    assert len(document["$defs"]) > 10


@given(st.dictionaries(st.from_regex(r"[a-z]{1,8}", fullmatch=True), st.integers(), min_size=1))
def test_overrides_round_trip(values):
    arguments = [part for key, value in values.items() for part in (f"--s.{key}", str(value))]
    assert parse_overrides(arguments) == {"s": values}


def test_dumped_yaml_is_plain(scripted_config):
    dumped = yaml.safe_load(dump_config(load_config(str(scripted_config))))
    script = {
        "says": [],
        "latency_s": 0.0,
        "step_s": 0.0,
        "step_s_per_sequence": 0.0,
        "max_num_seqs": 64,
    }
    expected = {"backend": "scripted", **script, "price": None}
    assert dumped["models"] == {"script": expected}


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["--roles.judge", "checks"], "expected personas.verifiable.count of at least 1"),
        (["--preferences.sft_min_met", "0.5"], "expected personas.verifiable.count of at least 1"),
        (["--roles.user", "checks"], "a verifiable model can only judge"),
        (["--training.ppo", "{updates: 3}"], "expected personas.verifiable.count of at least 1"),
        (["--training.ppo", "{rewards: {verifiable: 0, model: 1}}"], "expected training.reward"),
        (["--training.ppo", "{rewards: {verifiable: 0}}"], "at least one weight above 0"),
        (["--training.ppo", "{estimator: rloo, samples: 1}"], "expected at least 2"),
        (["--training.ppo", "{batch_size: 6, samples: 4}"], "a multiple of samples = 4"),
        (["--training.ppo", "{sampling: {top_p: 0.9}}"], "expected temperature above 0"),
    ],
)
def test_what_reinforcement_learning_needs_is_named(scripted_config, overrides, named):
    checks = ["--models.checks.backend", "verifiable"]
    with pytest.raises(UserError, match=named.replace("(", r"\(")) as caught:
        load_config(str(scripted_config), [*checks, *overrides])
    assert "\n" not in str(caught.value)


BASE = """\
run: {dir: runs/x}
models: {script: {backend: scripted}}
roles: {user: script, inducer: script, guided: script, unguided: script, judge: script}
personas:
  writer: script
  profiles: {size: 30}
  personalities: {size: 10}
training: {base: "embedded://tiny"}
"""


def loaded(tmp_path, text, overrides=()):
    path = tmp_path / "run.yaml"
    path.write_bytes(text.encode())
    return load_config(str(path), list(overrides))


@pytest.mark.parametrize(
    ("more", "named"),
    [
        ("dialogue:\n  turns: 3\n  tries: 1\n  turns: 4\n", "12: .*turns: stands twice.*line 10"),
        ("dialogue: {turns: 3}\ndialogue: {tries: 1}\n", "10: .*dialogue: stands twice.*line 9"),
        ("dialogue:\n  turns: 010\n", "10: .*010: expected a number without a leading zero"),
        ("dialogue:\n  turns: 08\n", "10: .*08: expected a number without a leading zero"),
        ("dialogue:\n  turns: 1:30\n", "10: .*1:30: expected a plain number"),
        ("dialogue:\n  turns: 3\n  sampling:\n    - 0.5\n", "11: dialogue.sampling: .*valid dict"),
        ("dialogue: [1, 2]\n", "9: dialogue: .*valid dict"),
        ("dialogue:\n  turns: 3\n  turn: 4\n", "11: dialogue.turn: unknown key"),
        ("dialogue:\n  turns: many\n", "10: dialogue.turns: .*valid integer"),
        ("dialogue:\n  turns: [3\n", "(10|11): not valid YAML"),
        ("dialogue:\n  turns: 0x_\n", "10: .*0x_: expected a valid int, or quotes"),
        ("dialogue:\n  turns: 0b_\n", "10: .*0b_: expected a valid int, or quotes"),
        ("dialogue:\n  turns: !!int x\n", "10: .*x: expected a valid int, or quotes"),
        ("dialogue:\n  turns: !!int ''\n", "10: .*expected a valid int, or quotes"),
        ("dialogue:\n  turns: !!float x\n", "10: .*x: expected a valid float, or quotes"),
        ("dialogue:\n  turns: !!bool x\n", "10: .*x: expected a valid bool, or quotes"),
        ("dialogue:\n  turns: !!timestamp x\n", "10: .*x: expected a valid timestamp, or quotes"),
        ("dialogue:\n  turns: " + "9" * 5000 + "\n", "10: .*9: expected a valid int, or quotes"),
        ("report:\n  title: 2024-02-30\n", "10: .*2024-02-30: expected a valid timestamp"),
        ("report:\n  2024-02-30: x\n", "10: .*2024-02-30: expected a valid timestamp"),
        ("report:\n  title: " + "[" * 3000 + "]" * 3000 + "\n", "10: .*nested too deeply"),
        ("report:\n  title: " + "{a: " * 3000 + "}" * 3000 + "\n", "10: .*nested too deeply"),
        ("dialogue:\n  turns: !!int '010'\n", "10: .*010: expected a number without a leading"),
        ("dialogue:\n  turns: !!int '1:30'\n", "10: .*1:30: expected a plain number"),
        ("dialogue:\n  turns: yes\n", "10: dialogue.turns: Input should be a number, got True"),
        ("evaluation:\n  turns: off\n", "10: evaluation.turns: Input should be a number"),
        ("dialogue:\n  sampling: {temperature: no}\n", "10: dialogue.sampling.temperature: Input"),
        ("dialogue:\n  sampling: {temperature: .inf}\n", "10: .*temperature: .*finite number"),
        ("dialogue:\n  sampling: {temperature: .nan}\n", "10: .*temperature: .*finite number"),
        ("dialogue:\n  sampling: {temperature: 1e400}\n", "10: .*temperature: .*finite number"),
        ("report:\n  title: a\x01b\n", r"10: .*the character U\+0001 is not allowed"),
        ("report:\r\n  title: a\x7fb\r\n", r"10: .*the character U\+007F is not allowed"),
        ("~: 3\n", "9: .*Keys should be strings"),
        ("dialogue:\n  ~: 3\n", "10: .*Keys should be strings"),
        ("dialogue:\n  yes: 3\n", "10: .*Keys should be strings"),
        ("dialogue:\n  yes: 3\n  true: 4\n", "11: .*true: stands twice, .*line 10"),
        ("dialogue:\n  <<: {turn: 3}\n  turns: 4\n", "10: dialogue.turn: unknown key"),
    ],
)
def test_what_is_wrong_in_a_file_is_one_line_with_its_number(tmp_path, more, named):
    with pytest.raises(UserError, match=rf"run\.yaml:{named}") as caught:
        loaded(tmp_path, BASE + more)
    assert "\n" not in str(caught.value)


def test_a_wrong_override_is_not_said_to_stand_in_the_file(tmp_path):
    text = BASE + "dialogue: {turns: 3}\n"
    with pytest.raises(UserError, match=r"run\.yaml: dialogue\.turns"):
        loaded(tmp_path, text, ["--dialogue.turns", "many"])
    with pytest.raises(UserError, match=r"--run\.seed: '010' is not a YAML value"):
        loaded(tmp_path, text, ["--run.seed", "010"])


@pytest.mark.parametrize("change", [str, lambda text: "\ufeff" + text, "windows"])
def test_marks_line_ends_and_plain_exponents_stay_fine(tmp_path, change):
    text = BASE.replace(
        "training: {", "training: {sft: {learning_rate: 1e-5}, dpo: {learning_rate: 2.5E-6}, "
    )
    text = text.replace("\n", "\r\n") if change == "windows" else change(text)
    config = loaded(tmp_path, text, ["--training.dpo.beta", "1e-2"])
    assert config.training.sft.learning_rate == 1e-5
    assert (config.training.dpo.learning_rate, config.training.dpo.beta) == (2.5e-6, 0.01)
    assert config.personas.profiles.size == 30


def test_quotes_aliases_and_zero_mean_what_they_say(tmp_path):
    text = BASE.replace("runs/x", '"010"') + "dialogue: &it {turns: 3}\nreport: {title: '1:30'}\n"
    config = loaded(tmp_path, text, ["--run.seed", "0"])
    assert (config.run.dir, config.report.title, config.run.seed) == ("010", "1:30", 0)


def test_overrides_of_a_section_and_of_its_keys_are_laid_over_each_other():
    assert parse_overrides(["--a.b", "1", "--a", "{c: 2}"]) == {"a": {"b": 1, "c": 2}}
    assert parse_overrides(["--a", "{b: 1, c: 2}", "--a.b", "3"]) == {"a": {"b": 3, "c": 2}}
    assert parse_overrides(["--a", "{b: {c: 1}}", "--a", "{b: {d: 2}}"]) == {
        "a": {"b": {"c": 1, "d": 2}}
    }


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("a: {b: {c: &y {k: 0}, d: &x {<<: *y, k: 1}}}\ne: {<<: *x, z: 3}", {"k": 1, "z": 3}),
        ("a: {d: &x {<<: {k: 0}, k: 1}}\ne: {<<: *x}", {"k": 1}),
        ("a: &a {key: 1}\nb: &b {<<: *a, key: 2}\ne: {<<: *b, more: 3}", {"key": 2, "more": 3}),
        ("a: &a {key: 1}\nb: &b {key: 2, own: 3}\ne: {<<: [*a, *b]}", {"key": 1, "own": 3}),
        ("a: &a {key: 1}\ne: {key: 2, <<: *a}", {"key": 2}),
        ("a: &a {key: {in: 1}}\nb: *a\nc: *a\ne: {<<: *a, x: *a}", {"key": {"in": 1}}),
    ],
)
def test_anchors_and_merges_mean_what_yaml_says(text, meant):
    found = parse_yaml(text)[0]["e"]
    assert {key: found[key] for key in found if key != "x"} == meant


def test_a_key_beside_a_merge_is_named_by_its_own_line(tmp_path):
    base = "\n  base: &b {backend: scripted, step_s: 1}"
    text = BASE.replace(" {script: {backend: scripted}}", base)
    text = text.replace("roles:", "  script:\n    <<: *b\n    step_s: many\nroles:")
    with pytest.raises(UserError, match=r"run\.yaml:6: models\.script\.scripted\.step_s"):
        loaded(tmp_path, text)


class Numbers(Section):
    whole: int = 0
    maybe: float | None = None
    many: list[float] = Field([])
    named: dict[str, int | str] = Field({})
    either: bool | int = False
    what: dict[str, Any] = Field({})


@pytest.mark.parametrize("name", ["whole", "maybe", "many", "named"])
def test_no_truth_is_a_number_and_all_else_stays_as_it_is(name):
    value = {"many": [1.0, True], "named": {"a": True}}.get(name, False)
    with pytest.raises(ValidationError, match="Input should be a number") as caught:
        Numbers.model_validate({name: value})
    assert caught.value.errors()[0]["loc"] == (name,)
    fine = {"whole": 1, "maybe": 2, "many": [1], "named": {"a": "x"}, "either": True}
    assert Numbers.model_validate(fine | {"what": {"b": True, "c": [True]}}).either is True
