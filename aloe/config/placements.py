"""Which devices each model of the training gets."""

from __future__ import annotations

from pydantic import Field

from aloe.config.section import Section


class Placement(Section):
    nodes: int = Field(1, ge=1)
    """Machines over which the processes are spread."""
    devices: int = Field(1, ge=1)
    """Processes on each machine, one (logical) GPU and one CPU each."""
    group: str | None = None
    """Roles that name the same group share their devices, process by process; null: its own."""


class Placements(Section):
    actor: Placement = Placement()
    """The policy that is trained, by SFT, DPO and PPO."""
    reference: Placement = Placement()
    """The frozen policy that DPO and PPO compare with."""
    reward: Placement = Placement()
    """The reward model, in its own training and in PPO."""
    critic: Placement = Placement()
    """The value model of PPO."""
    rollout: Placement = Placement()
    """The engines that speak for the policy in PPO."""
