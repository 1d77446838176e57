"""Proximal policy optimisation in conversation (arXiv 1707.06347), as a stage."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from aloe.chat import ChatFormat, talked_with
from aloe.config import Config, ModelConfig, PpoConfig, VllmModel, speaker_settings
from aloe.engines import check_models
from aloe.engines.account import Account
from aloe.engines.embedded import resolve_checkpoint
from aloe.engines.openai_parameters import known_habits
from aloe.engines.pool import open_pools, pool_resources, pooled_models
from aloe.errors import UserError
from aloe.placement import groups_of, phases_of, rollout_model
from aloe.roles import prompts_of
from aloe.runtime import require_resources
from aloe.schema import PROMPTS
from aloe.storage import Manifest, Store
from aloe.training.launch import check, teams
from aloe.training.protocol import Job, Note, Outcome
from aloe.training.recorder import Recorder
from aloe.training.stage import before, run_stage

PROMPTS_FILE = "preferences/prompts.parquet"


def train_ppo(config: Config, store: Store) -> Manifest:
    """Let a policy talk with simulated users and learn from what each reply is worth (issue 6).

    Policy, reference, critic (for ``estimator: gae``), reward model (if it is asked) and rollout
    engines have placements of their own; the user's and the judge's engines are pools, which an
    evaluation on the same cluster shares.

    Writes ``training/ppo/``: ``checkpoint/`` (a Hugging Face folder), ``metrics.parquet``,
    ``tensorboard/``, ``dialogues/`` (`aloe.schema.DIALOGUES`), ``errors/`` and ``manifest.json``.

    Raises:
        UserError: see `aloe.training.stage.run_stage`; or ``training.ppo`` is not set or does not
            fit the models.
        StageFailed: a guard, a sync of weights or too many failed episodes stopped it.
        StageStopped: ``run.max_tokens`` or ``run.max_cost_usd`` is spent.
    """
    options = config.training.ppo
    if options is None:
        raise UserError("training.ppo: not set, expected a section")
    check_models(others_of(config).values(), servers=False)
    _check_lengths(config, options)
    prompts, after = prompts_of(config), ["preferences"]
    after += before(options.start_from)
    if options.rewards.model:
        after.append("training/reward")
    return run_stage(
        config,
        store,
        "ppo",
        options,
        after=after,
        data=(PROMPTS_FILE, PROMPTS),
        run=_run,
        start=options.start_from,
        more={
            "user_sampling": config.dialogue.sampling.model_dump(mode="json"),
            "prompts": [prompts.version("dialogue"), prompts.version("evaluation")],
            **prompts.settings(),
            **{
                role: speaker_settings(config.models[name])
                for role, name in roles_of(config).items()
            },
            **(config.judge.settings() if "judge" in roles_of(config) else {}),
        },
    )


def roles_of(config: Config) -> dict[str, str]:
    """Model name of those who speak beside the policy: the user and, if it rewards, the judge."""
    assert config.training.ppo is not None
    judge = {"judge": config.roles.judge} if config.training.ppo.rewards.judge else {}
    return {"user": config.roles.user, **judge}


def others_of(config: Config) -> dict[str, ModelConfig]:
    """The models of `roles_of` by name."""
    return {name: config.models[name] for name in roles_of(config).values()}


def _check_lengths(config: Config, options: PpoConfig) -> None:
    longest = rollout_model(config).max_model_len
    if options.max_len > longest:
        raise UserError(
            f"training.ppo.max_len: {options.max_len}, expected at most the {longest} tokens of "
            f"models.{config.roles.unguided}.max_model_len, which the rollout engines have too"
        )
    if rollout_model(config).tensor_parallel_size > 1:
        raise UserError(
            f"models.{config.roles.unguided}.tensor_parallel_size: rollout engines of PPO have one "
            "device each, expected 1"
        )


def _run(config: Config, job: Job, recorder: Recorder) -> Outcome:
    import ray
    from transformers import AutoTokenizer

    account = Account(config, job.store, job.folder)
    workers = workers_of(config)
    from aloe.training.ppo.arguments import ppo_arguments
    from aloe.training.ppo.controller import Controller

    options, (roles,) = job.options, phases_of(config, "ppo")
    assert isinstance(options, PpoConfig)
    pooled = pooled_models(others_of(config))
    _check_room(config, roles, pooled)
    with (
        open_pools(pooled, config.storage) as pools,
        teams(config, workers) as team,
    ):
        job = replace(job, engines=tuple(team["rollout"]._actor_handlers))
        model = talked_with(rollout_model(config), job.chat).model_copy(
            update={
                "path": job.checkpoint,
                "pool": None,
                "trust_remote_code": job.trust_remote_code,
            }
        )
        others = roles_of(config)
        engines = team["rollout"].async_run_method(
            "load", config, model, others, pools, known_habits()
        )
        rest = [role for role in team if role != "rollout"]
        loading = [ref for role in rest for ref in team[role].start("load", _of(config, job, role))]
        check([*engines, *loading])
        check(team["actor"].async_run_method("meet"))
        recorder.take(Note("ppo: all processes are ready", {"phase": "ready"}))
        tokenizer = AutoTokenizer.from_pretrained(resolve_checkpoint(job.checkpoint))
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        if not ChatFormat(tokenizer, job.chat, "training.base").grows:
            recorder.take(
                Note(
                    "ppo: with this chat template turns do not extend each other; in an episode "
                    "the policy reads its earlier turns as it has said them"
                )
            )
        arguments = ppo_arguments(options, job.seed, len(job.engines), packs_trees=False)
        try:
            return Controller(
                config, job, team, arguments, tokenizer, _prompts(job.store), recorder, account
            ).run()
        finally:
            account.note()
            ray.wait(team["rollout"].async_run_method("stop"), timeout=30)


def workers_of(config: Config) -> dict[str, Any]:
    """Ray actor class of each role."""
    from aloe.training.accelerator import prepare

    prepare()
    from aloe.training.ppo.rollout_worker import RolloutWorker
    from aloe.training.ppo.workers import (
        CriticWorker,
        FrozenWorker,
        PolicyWorker,
        RewardModelWorker,
    )

    kinds: dict[str, Any] = {
        "rollout": RolloutWorker,
        "reference": FrozenWorker,
        "reward": RewardModelWorker,
        "critic": CriticWorker,
        "actor": PolicyWorker,
    }
    (roles,) = phases_of(config, "ppo")
    return {role: kinds[role] for role in kinds if role in roles}


def _of(config: Config, job: Job, role: str) -> Job:
    """The job of a role: with which checkpoint it starts."""
    trained = job.store.url("training/reward/checkpoint")
    if role == "reward":
        return replace(job, checkpoint=trained)
    if role == "critic" and config.training.ppo is not None and config.training.ppo.rewards.model:
        return replace(job, checkpoint=trained, from_reward_model=True)
    return job


def _check_room(config: Config, roles: list[str], pooled: dict[str, VllmModel]) -> None:
    """Whether the cluster has room for the pools beside the placements."""
    devices = sum(group.total for group in groups_of(config.placements, roles))
    gpus, cpus = pool_resources(pooled)
    require_resources(
        config.ray, "placements of training.ppo and pools", devices + gpus, devices + cpus
    )


def _prompts(store: Store) -> dict[str, list[dict[str, Any]]]:
    rows = store.read_table(PROMPTS_FILE, PROMPTS).to_pylist()
    return {
        split: [row for row in rows if row["split"] == split] for split in ("train", "validation")
    }
