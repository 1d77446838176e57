"""Which checkpoints are measured, and the engine that each one speaks through."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from aloe.chat import ChatOptions, checkpoint_options, policy_options, talked_with
from aloe.config import Config, ModelConfig, VerifiableModel, VllmModel, speakers_of
from aloe.roles import Persona, persona_of
from aloe.storage import Store
from aloe.verifiable import ProgramPolicy

PROGRAM = "program:"
"""What the name of a policy without a model begins with."""
_TRAINED = ("sft", "rounds", "dpo", "ppo")


def stages_before(config: Config) -> list[str]:
    """Stages that must be complete: the personas, and the training of each policy of this run."""
    targets = set(config.evaluation.policies.values())
    twins = config.personas.twins
    # What users tell who are models is found by a probe, which is trained on the dialogues.
    talk = ["dialogue"] if twins.count and twins.hints != "program" else []
    return ["personas", *talk, *(f"training/{name}" for name in _TRAINED if name in targets)]


def policy_model(config: Config, store: Store, target: str) -> ModelConfig:
    """The model behind one value of ``evaluation.policies``.

    A checkpoint is served like ``roles.unguided``, the role it is trained for; when no vLLM model
    plays that role, like the first vLLM model of the configuration. It is talked with like the
    checkpoint that is trained; one of another origin like the model that names its path.

    Args:
        target: ``base``, ``sft``, ``rounds``, ``dpo``, ``ppo``, ``model:NAME``, ``program:NAME``,
            or a checkpoint's path or URL.
    """
    if target.startswith("model:"):
        return config.models[target.removeprefix("model:")]
    if target.startswith(PROGRAM):
        return VerifiableModel(backend="verifiable")
    if target in _TRAINED:
        path = store.url(config.training.checkpoint_of(target))
        options, trusted = policy_options(config), config.training.trust_remote_code
    else:
        path, options, trusted = checkpoint_of(config, target)
    serving = talked_with(_serving(config), options)
    return serving.model_copy(update={"path": path, "trust_remote_code": trusted})


def checkpoint_of(config: Config, target: str) -> tuple[str, ChatOptions, bool]:
    """Path of a checkpoint that is there before the run, how it is talked with, and whether it may
    bring code.

    Args:
        target: ``base``, or a checkpoint's path or URL.
    """
    if target == "base":
        path, trusted = config.training.base, config.training.trust_remote_code
        return path, policy_options(config), trusted
    # Who trusts its code names it under models and says so there.
    return target, checkpoint_options(config, target), False


def checkpoints_of(config: Config) -> dict[str, tuple[str, ChatOptions, bool]]:
    """`checkpoint_of` each policy that is one, by its name."""
    return {
        name: checkpoint_of(config, target)
        for name, target in config.evaluation.policies.items()
        if target not in _TRAINED and not target.startswith(("model:", PROGRAM))
    }


def program_of(target: str) -> ProgramPolicy | None:
    """The program behind a value of ``evaluation.policies``; None where it is a model."""
    if not target.startswith(PROGRAM):
        return None
    return cast(ProgramPolicy, target.removeprefix(PROGRAM))


def persona_under(config: Config, policy: str, row: Mapping[str, Any]) -> Persona:
    """The persona of a row of `aloe.schema.PERSONAS` as a policy meets it (its condition)."""
    condition = config.evaluation.condition(policy)
    assert condition.wordings is not None and condition.topics is not None
    planned = config.personas.twins.planned
    return persona_of(row, planned, condition.wordings, condition.topics)


def cast_of(
    config: Config, store: Store, policy: str
) -> tuple[dict[str, str], dict[str, ModelConfig]]:
    """Who speaks when ``policy`` is measured: model name by role, and model by name.

    A policy that is one of the configured models goes by that name, and shares its engine.
    """
    model = policy_model(config, store, config.evaluation.policies[policy])
    known = [name for name, candidate in config.models.items() if candidate == model]
    name = known[0] if known else f"policy {policy}"
    roles = {"user": config.roles.user, "policy": name, "judge": config.roles.judge}
    return roles, {**speakers_of(config, [roles["user"], roles["judge"]]), name: model}


def _serving(config: Config) -> VllmModel:
    candidates = [config.models[config.roles.unguided], *config.models.values()]
    for model in candidates:
        if isinstance(model, VllmModel):
            return model
    return VllmModel(backend="vllm", path=config.training.base)
