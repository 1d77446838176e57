"""The stages in a row, the only place that knows their order, and who speaks in them."""

from __future__ import annotations

from collections.abc import Collection

from aloe.config import Config, ModelConfig, VllmModel, speakers_of
from aloe.placement import Kind, kinds_of
from aloe.storage import Store, load_manifest

STAGES: dict[str, str] = {
    "personas": "aloe.personas:expand_personas",
    "dialogue": "aloe.dialogue:rollout_dialogues",
    "preferences": "aloe.preferences:build_preferences",
    "training/sft": "aloe.training:train_sft",
    "training/rounds": "aloe.rounds:train_rounds",
    "training/reward": "aloe.training:train_reward",
    "training/dpo": "aloe.training:train_dpo",
    "training/ppo": "aloe.training:train_ppo",
    "evaluation": "aloe.evaluation:evaluate_policies",
    "report": "aloe.report:write_report",
}
"""Stage -> entry function, in the order in which they build on each other."""


def stages_of(config: Config) -> list[str]:
    """The stages of a run: all, but for the trainings that are not asked for."""
    optional = {
        f"training/{kind}": getattr(config.training, kind)
        for kind in ("rounds", "reward", "dpo", "ppo")
    }
    return [name for name in STAGES if optional.get(name, config) is not None]


def kind_of(config: Config, stage: str | None) -> Kind | None:
    """The training that a stage is; None if it is none, or none that this run has."""
    return next((kind for kind in kinds_of(config) if stage == f"training/{kind}"), None)


def is_complete(store: Store, name: str) -> bool:
    """Whether a stage has come to its end in this run folder."""
    manifest = load_manifest(store, name)
    return manifest is not None and manifest.complete


def engines_of(config: Config, store: Store, stage: str) -> list[VllmModel]:
    """The models whose engines a stage starts or joins."""
    models: list[ModelConfig] = []
    if stage == "personas":
        models = [config.models[name] for name in config.personas.writers]
    elif stage == "dialogue":
        models = list(speakers_of(config, list(config.roles.model_dump().values())).values())
    elif stage == "training/ppo":
        from aloe.training.ppo.stage import others_of

        models = list(others_of(config).values())
    elif stage == "evaluation":
        from aloe.evaluation.policies import cast_of

        casts = [cast_of(config, store, policy)[1] for policy in config.evaluation.policies]
        models = [model for cast in casts for model in cast.values()]
    return [model for model in models if isinstance(model, VllmModel)]


def roles_of(config: Config, stages: Collection[str]) -> dict[str, list[str]]:
    """Roles of each model in these stages, by the model's name."""
    pairs: list[tuple[str, str]] = []
    if "personas" in stages:
        pairs += [(name, "writer") for name in config.personas.writers]
    cast: dict[str, str] = config.roles.model_dump()
    if "dialogue" in stages:
        pairs += [(name, role) for role, name in cast.items()]
    if {"evaluation", "training/ppo"} & set(stages):
        pairs += [(cast[role], role) for role in ("user", "judge")]
    if "evaluation" in stages:
        targets = config.evaluation.policies.values()
        marked = [target for target in targets if target.startswith("model:")]
        pairs += [(target.removeprefix("model:"), "policy") for target in marked]
    found: dict[str, list[str]] = {}
    for name, role in dict.fromkeys(pairs):
        found.setdefault(name, []).append(role)
    return found
