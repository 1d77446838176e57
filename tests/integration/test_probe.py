"""The probe before a run: what works is told, what cannot is one line, before anything is paid."""

from __future__ import annotations

import shutil
from typing import Any

import pytest
from chat_templates import SHAPES
from test_trial_server import BREAKS, NEVER, ROLES, model_at
from transformers import AutoTokenizer
from trial_server import HABITS, TrialServer

from aloe.checks import check_servers
from aloe.cli import main
from aloe.config import DialogueConfig, JudgeConfig, OpenAIModel, VllmModel
from aloe.config_file import load_config
from aloe.engines.embedded import resolve_checkpoint
from aloe.errors import StageStopped, UserError
from aloe.roles.probe import Probed, probe

EVERYONE = [*ROLES, "writer", "policy"]


def probed(model: OpenAIModel) -> Probed:
    [found] = probe({"m": model}, {"m": EVERYONE}, DialogueConfig(), JudgeConfig())
    return found


INSTEAD: dict[str, dict[str, Any]] = {
    "temperature-1": {"not_honoured": ["temperature"]},
    "no-seed": {"seed": "left out", "not_honoured": ["seed"]},
    "no-stop": {"stop": "cut here"},
    "json-object-only": {"schema": "json_object"},
    "no-json": {"schema": "parsed text"},
    "no-logprobs": {"choices": "votes"},
    "logprobs-refused": {"choices": "votes"},
    "stubborn-judge": {"choices": "votes"},
    "logprobs-403": {"choices": "votes"},
    "tail-judge": {"choices": "votes"},
    "no-edges": {"not_honoured": ["max_tokens"]},
    "no-system": {"system": "in the first user message"},
    "no-system-500": {"system": "in the first user message"},
    "strict": {
        "system": "in the first user message",
        "schema": "parsed text",
        "choices": "votes",
        "seed": "left out",
        "stop": "cut here",
        "not_honoured": ["seed", "temperature"],
    },
}


@pytest.mark.parametrize("mode", sorted(HABITS.keys() - BREAKS.keys() - NEVER))
def test_what_works_is_told(mode):
    with TrialServer(mode).running() as server:
        found = probed(model_at(server))
    expected = {
        "system": "own role",
        "schema": "native",
        "choices": "log-probs",
        "seed": "sent",
        "stop": "sent",
        "not_honoured": [],
    } | INSTEAD.get(mode, {})
    assert {key: getattr(found, key) for key in expected} == expected
    assert found.requests == server.count <= 30


@pytest.mark.parametrize(
    ("mode", "says"),
    [
        ("unknown-model", "has no 'trial', expected one of: other"),
        ("untold", "has no 'trial', expected one of: other"),
        ("wrong-key", "refuses the key in OPENAI_API_KEY"),
        ("never-json", "models.m as inducer: no answer that can be used"),
    ],
)
def test_what_cannot_work_is_one_line(mode, says, monkeypatch):
    monkeypatch.setattr("trial_server.LISTED", ["other"])
    monkeypatch.setattr("trial_server.AFTER", 0)
    with TrialServer(mode).running() as server, pytest.raises(UserError) as error:
        probed(model_at(server))
    assert says in str(error.value)
    assert "\n" not in str(error.value)
    assert server.count <= 30


@pytest.mark.parametrize("mode", ["always-html", "quota", "dead", "budget", "base-resp"])
def test_what_may_pass_ends_in_order(mode, monkeypatch):
    monkeypatch.setattr("trial_server.AFTER", 0)
    with TrialServer(mode).running() as server, pytest.raises(StageStopped) as error:
        probed(model_at(server, deadline_s=2))
    assert "\n" not in str(error.value)
    assert server.count <= 30


def checkpoint(folder, template: str | None) -> VllmModel:
    """What can be seen of a checkpoint without its weights."""
    tokenizer = AutoTokenizer.from_pretrained(resolve_checkpoint("embedded://tiny"))
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    shutil.copy(f"{resolve_checkpoint('embedded://tiny')}/config.json", folder)
    return VllmModel(backend="vllm", path=str(folder))


def looked_at(model: VllmModel, *roles: str):
    (found,) = probe({"m": model}, {"m": roles}, DialogueConfig(), JudgeConfig())
    return found


@pytest.mark.parametrize(
    ("template", "says"),
    [
        (None, "has no chat template (a base model?), expected one in models.m.chat_template"),
        ("{{ raise_exception('never') }}", "models.m.chat_template: cannot be rendered"),
        ("{% if %}", "models.m.chat_template: cannot be rendered"),
    ],
)
def test_a_template_that_is_of_no_use_is_one_line(tmp_path, template, says):
    with pytest.raises(UserError) as error:
        looked_at(checkpoint(tmp_path, template), "user")
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_a_tokenizer_that_cannot_be_loaded_is_one_line(tmp_path):
    model = checkpoint(tmp_path, SHAPES["chatml"])
    for file in tmp_path.glob("token*"):
        file.unlink()
    with pytest.raises(UserError, match=r"models\.m\.path: the tokenizer of .* cannot be loaded"):
        looked_at(model, "user")


def test_where_the_system_text_goes_is_found_and_said(tmp_path, capsys):
    assert looked_at(checkpoint(tmp_path, SHAPES["chatml"]), "user", "judge").system == "own role"
    assert "no system role" not in capsys.readouterr().err
    found = looked_at(checkpoint(tmp_path, SHAPES["gemma"]), "user", "judge")
    assert (found.system, found.choices) == ("in the first user message", "log-probs")
    assert "the system text stands in the first user message" in capsys.readouterr().err


def test_a_run_ends_before_a_persona_is_written(scripted_config, tmp_path, capsys):
    with TrialServer("never-json").running() as server:
        told = f"{{backend: openai, model: trial, base_url: '{server.url}'}}"
        overrides = ["--models.trial", told, "--roles.inducer", "trial"]
        with pytest.raises(SystemExit) as end:
            main(["run", str(scripted_config), *overrides])
        assert end.value.code == 2
        assert 0 < server.count <= 30
        assert not (tmp_path / "run" / "personas").exists()
        with pytest.raises(SystemExit) as end:
            main(["doctor", str(scripted_config), *overrides])
        assert end.value.code == 2
    assert capsys.readouterr().err.count("models.trial as inducer") == 2


@pytest.mark.parametrize("command", ["run", "doctor"])
@pytest.mark.parametrize(
    ("keys", "named"),
    [
        (["--training.base", "PATH"], "training.base"),
        (["--evaluation.policies.base", "PATH"], "evaluation.policies.base"),
        (["--evaluation.policies.base", "base", "--training.base", "PATH"], "training.base"),
    ],
)
def test_a_base_model_without_a_template_is_found_before_a_persona_is_written(
    scripted_config, tmp_path, capsys, command, keys, named
):
    folder = tmp_path / "base"
    folder.mkdir()
    checkpoint(folder, None)
    overrides = [key.replace("PATH", str(folder)) for key in keys]
    with pytest.raises(SystemExit) as end:
        main([command, str(scripted_config), *overrides])
    assert end.value.code == 2
    assert not (tmp_path / "run" / "personas").exists()
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.endswith(
        f"{named}: {folder} has no chat template (a base model?), expected a models.NAME with this "
        "path and a chat_template"
    )


def test_a_models_template_is_that_of_its_path(scripted_config, tmp_path):
    folder = tmp_path / "base"
    folder.mkdir()
    checkpoint(folder, None)
    bare = ["--models.mine", f"{{backend: vllm, path: '{folder}'}}", "--training.base", str(folder)]
    with pytest.raises(
        UserError, match=r"models\.mine: .* expected one in models\.mine\.chat_temp"
    ):
        check_servers(load_config(str(scripted_config), bare))
    template = tmp_path / "template.jinja"
    template.write_text(SHAPES["mistral-first"])
    told = f"{{backend: vllm, path: '{folder}', chat_template: '{template}'}}"
    overrides = ["--models.mine", told, "--training.base", str(folder)]
    overrides += ["--evaluation.policies.base", str(folder)]
    check_servers(load_config(str(scripted_config), overrides))
