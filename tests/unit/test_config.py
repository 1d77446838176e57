import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from aloe.config import Config
from aloe.config_file import dump_config, load_config, parse_overrides
from aloe.errors import UserError

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
