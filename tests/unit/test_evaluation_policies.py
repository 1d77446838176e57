import pytest

from aloe.chat import ChatOptions, policy_options
from aloe.config import Config, VllmModel
from aloe.evaluation.policies import policy_model, stages_before
from aloe.storage import Store


def make_config(models: dict, unguided: str, policies: dict, **training) -> Config:
    roles = dict.fromkeys(("user", "inducer", "guided", "unguided", "judge"), unguided)
    return Config.model_validate(
        {
            "run": {"dir": "unused"},
            "models": models,
            "roles": roles,
            "personas": {
                "writer": unguided,
                "profiles": {"size": 3},
                "personalities": {"size": 3},
            },
            "training": {"base": "embedded://tiny", **training},
            "evaluation": {"policies": policies, "baseline": next(iter(policies))},
        }
    )


VLLM = {"backend": "vllm", "path": "embedded://tiny", "max_model_len": 512}
OTHER = {"backend": "vllm", "path": "embedded://smollm2-135m", "max_model_len": 256}
SCRIPT = {"backend": "scripted"}
STORE = Store("s3://bucket/run")


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("base", "embedded://tiny"),
        ("sft", "s3://bucket/run/training/sft/checkpoint"),
        ("dpo", "s3://bucket/run/training/dpo/checkpoint"),
        ("/models/mine", "/models/mine"),
    ],
)
def test_checkpoint_is_served_like_the_unguided_role(target, path):
    config = make_config({"other": OTHER, "small": VLLM}, "small", {"it": target})
    model = policy_model(config, STORE, target)
    assert model == VllmModel(backend="vllm", path=path, max_model_len=512)


def test_base_shares_the_settings_of_the_role_it_plays():
    config = make_config({"small": VLLM}, "small", {"base": "base"})
    assert policy_model(config, STORE, "base") == config.models["small"]


def test_first_vllm_model_serves_when_the_role_has_none():
    config = make_config({"script": SCRIPT, "other": OTHER}, "script", {"base": "base"})
    model = policy_model(config, STORE, "base")
    assert model == VllmModel(backend="vllm", path="embedded://tiny", max_model_len=256)


def test_defaults_serve_when_there_is_no_vllm_model():
    config = make_config({"script": SCRIPT}, "script", {"base": "base"})
    assert policy_model(config, STORE, "base") == VllmModel(backend="vllm", path="embedded://tiny")


def test_named_model_is_used_as_it_is():
    config = make_config({"script": SCRIPT, "small": VLLM}, "small", {"it": "model:script"})
    assert policy_model(config, STORE, "model:script") is config.models["script"]


def test_remote_code_is_trusted_for_what_was_trained_only():
    trusting = {**VLLM, "trust_remote_code": True}
    config = make_config({"small": trusting}, "small", {"it": "sft"}, trust_remote_code=True)
    assert policy_model(config, STORE, "sft").trust_remote_code
    assert not policy_model(config, STORE, "/models/mine").trust_remote_code


def test_stages_before_are_those_whose_checkpoints_are_measured():
    policies = {"before": "base", "after": "dpo", "far": "model:small"}
    config = make_config({"small": VLLM}, "small", policies)
    assert stages_before(config) == ["personas", "training/dpo"]


def test_a_checkpoint_is_talked_with_like_the_model_that_names_it():
    mine = VLLM | {"path": "/models/mine", "chat_template": "{{ 1 }}", "thinking": "strip"}
    config = make_config({"small": VLLM, "mine": mine}, "small", {"it": "/models/mine"})
    model = policy_model(config, STORE, "/models/mine")
    assert (model.chat_template, model.thinking) == ("{{ 1 }}", "strip")
    assert policy_model(config, STORE, "/models/other").chat_template is None
    assert policy_model(config, STORE, "base").chat_template is None


def test_a_policy_that_a_server_speaks_for_thinks_as_the_server_is_told():
    served = {"backend": "openai", "model": "m", "base_url": "http://127.0.0.1:9/v1"}
    told = {"thinking": "keep", "chat_template_kwargs": {"a": "b"}}
    assert policy_options(make_config({"s": served | told}, "s", {"b": "base"})) == ChatOptions(
        None, "keep", (("a", "b"),)
    )
    assert policy_options(make_config({"s": served}, "s", {"b": "base"})) == ChatOptions()
