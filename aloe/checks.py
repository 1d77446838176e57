"""What is found out before anything is paid for: files, checkpoints, servers, what models can."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict

from aloe.chat import ChatOptions, policy_options
from aloe.config import Config, ModelConfig, OpenAIModel, VllmModel, speakers_of
from aloe.engines import check_models
from aloe.engines.embedded import check_checkpoint
from aloe.engines.tokenizer import checkpoint_chat
from aloe.errors import UserError, WorldFault
from aloe.provenance import RECORD
from aloe.roles import prompts_of
from aloe.roles.probe import Probed, probe, show_probe
from aloe.runtime import check_address
from aloe.stages import is_complete, roles_of, stages_of
from aloe.storage import Store

PROBE = "probe.json"
"""In the run folder: what each model can, by `aloe.roles.probe`."""


def prepare(config: Config, store: Store, stages: list[str]) -> None:
    """Check everything that can be checked without a model.

    Raises:
        UserError: the configuration, a checkpoint, a server or the run folder is not usable.
        WorldFault: a server that was there when the run began does not answer.
    """
    prompts_of(config)
    names: list[str] = []
    if "personas" in stages:
        from aloe.personas import check_personas

        check_personas(config)
        names += config.personas.writers
    if "dialogue" in stages:
        from aloe.dialogue import check_start

        check_start(config)
    if {"dialogue", "evaluation", "training/ppo"} & set(stages):
        names += config.roles.model_dump().values()
    _check_models(speakers_of(config, names), begun=store.exists(RECORD))
    if any(stage.startswith("training") for stage in stages):
        check_checkpoint(config.training.base)
    check_address(config.ray)
    store.check_writable()
    fresh = [name for name in stages if not is_complete(store, name)]
    check_chats(config, fresh)
    asked = speakers_of(config, list(roles_of(config, fresh))).values()
    if any(isinstance(model, OpenAIModel | VllmModel) for model in asked):
        found = probe_models(config, fresh)
        store.write_text(PROBE, json.dumps([asdict(one) for one in found], indent=2) + "\n")


def check_servers(config: Config) -> None:
    """What `aloe doctor CONFIG` does: look at all models of all stages as a run does.

    Raises:
        UserError, StageStopped: see `probe_models`.
    """
    stages = stages_of(config)
    _check_models(speakers_of(config, list(roles_of(config, stages))), begun=False)
    check_chats(config, stages)
    found = probe_models(config, stages)
    if not any(one.requests for one in found):
        show_probe(found)


def probe_models(config: Config, stages: Collection[str]) -> list[Probed]:
    """Make one tiny call per role and model of these stages, and show what works.

    Raises:
        UserError: something cannot work.
        StageStopped: a server cannot be used now.
    """
    roles = roles_of(config, stages)
    models = speakers_of(config, list(roles))
    found = probe(models, roles, config.dialogue, config.judge, prompts_of(config))
    if any(one.requests for one in found):
        show_probe(found)
    return found


def check_chats(config: Config, stages: Collection[str]) -> None:
    """See that the checkpoints that are trained or measured can be talked with.

    Models that play a role are looked at by `probe_models`.

    Raises:
        UserError: one has no chat template, or none that can be used.
    """
    checkpoints: dict[str, tuple[str, ChatOptions, bool]] = {}
    if any(stage.startswith("training") for stage in stages):
        trusted = config.training.trust_remote_code
        checkpoints["training.base"] = config.training.base, policy_options(config), trusted
    if "evaluation" in stages:
        from aloe.evaluation.policies import checkpoints_of

        found = checkpoints_of(config)
        checkpoints |= {f"evaluation.policies.{name}": found[name] for name in found}
    seen: set[tuple[str, ChatOptions, bool]] = set()
    for key, checkpoint in checkpoints.items():
        if checkpoint not in seen:
            checkpoint_chat(_model_of(config, checkpoint[0]) or key, *checkpoint)
        seen.add(checkpoint)


def _model_of(config: Config, path: str) -> str:
    """The model that names a checkpoint, and so how it is talked with; empty if there is none."""
    names = (
        name
        for name, model in config.models.items()
        if isinstance(model, VllmModel) and model.path == path
    )
    return next((f"models.{name}" for name in names), "")


def _check_models(models: Mapping[str, ModelConfig], begun: bool) -> None:
    """`check_models`; a server that does not answer is bad input, but not once a run has begun."""
    try:
        check_models(models.values())
    except WorldFault as fault:
        if begun:
            raise
        raise UserError(str(fault)) from fault
