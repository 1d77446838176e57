"""Which roles of a training hold devices at the same time."""

from __future__ import annotations

from typing import Literal

from aloe.config import Config

Kind = Literal["sft", "reward", "dpo", "ppo"]
Phases = list[list[str]]
"""Roles of `aloe.config.Placements`, one phase after the other. The last role of the last phase is
the one that is trained."""
PPO: Phases = [["reference", "reward", "critic", "rollout", "actor"]]
"""All that PPO may need at once, each with devices of its own or shared ones."""


def phases_of(config: Config, kind: Kind) -> Phases:
    """Who is there when, in one kind of training.

    A precomputed reference gives its devices back before the policy is loaded.
    """
    if kind == "sft":
        return [["actor"]]
    if kind == "reward":
        return [["reward"]]
    if kind == "ppo":
        ppo = config.training.ppo
        if ppo is None:
            return PPO
        unused = {"reward"} if not ppo.rewards.model else set()
        unused |= {"critic"} if ppo.estimator != "gae" else set()
        return [[role for role in PPO[0] if role not in unused]]
    dpo = config.training.dpo
    if dpo is not None and dpo.reference == "placed":
        return [["reference", "actor"]]
    return [["reference"], ["actor"]]


def kinds_of(config: Config) -> list[Kind]:
    """The trainings that a configuration asks for, in their order."""
    kinds: list[Kind] = ["sft", "reward", "dpo", "ppo"]
    return [kind for kind in kinds if getattr(config.training, kind) is not None]
