"""Proposes placements: the largest layout in which every training fits into the devices' memory."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, product
from typing import Any

from aloe.config import Config, Placements
from aloe.errors import UserError
from aloe.placement.layout import groups_of, shortfall
from aloe.placement.memory import GIB, Shape
from aloe.placement.needs import (
    TRAINED,
    Devices,
    Need,
    needs_of,
    options_of,
    rollout_model,
    trainings,
)
from aloe.placement.phases import kinds_of

HEADROOM = 0.9
"""Share of a device's memory that is planned with; CUDA, NCCL and fragments take the rest."""
_LARGEST_FIRST = ("actor", "critic", "rollout", "reward", "reference")
"""Whose number of devices matters most."""
_TOGETHER: tuple[dict[str, str], ...] = (
    {},
    {"actor": "actor", "reference": "actor", "critic": "critic", "reward": "critic"},
    dict.fromkeys(("actor", "reference", "critic", "reward"), "actor"),
)
"""Role -> group of roles that share devices; tried in this order. Engines do not share."""
_SAVING: tuple[dict[str, object], ...] = (
    {},
    {"zero_stage": 3},
    {"gradient_checkpointing": True},
    {"micro_batch_size": 1},
)
"""Settings that save memory, one more at a time."""


@dataclass(frozen=True)
class Plan:
    """A layout, and what each role takes in it."""

    placements: Placements
    needs: list[Need]
    changes: dict[str, object]
    """Settings of trainings that must change for it to fit, by key."""


def propose(config: Config, devices: Devices, shape: Shape, ppo: bool) -> Plan:
    """The largest layout that fits: as configured, else with settings that save memory.

    Args:
        shape: of ``training.base``.
        ppo: plan for the five roles of PPO as well, see `needs_of`.

    Raises:
        UserError: nothing fits.
    """
    for saving in accumulate(_SAVING, lambda before, more: before | more):
        changed = _with(config, saving)
        fitting = [
            Plan(placements, needs, _changes(config, saving))
            for placements in _layouts(devices, config, ppo)
            if _fits(
                changed,
                placements,
                needs := needs_of(changed, placements, shape, devices, ppo),
                devices,
                ppo,
            )
        ]
        if fitting:
            return max(fitting, key=lambda plan: _size(plan.placements))
    raise UserError(
        f"--gpus {devices.gpus} --gpu-memory {devices.memory / GIB:g}: no layout of "
        f"{', '.join(name for name, _ in trainings(config, ppo))} fits, not even with zero_stage "
        f"3, gradient_checkpointing and micro_batch_size 1; training.base has "
        f"{shape.parameters / 1e9:.2f}e9 parameters"
    )


def _layouts(devices: Devices, config: Config, ppo: bool) -> Iterator[Placements]:
    """All that have enough devices: parts of a machine, or 2, 4, 8... machines for each group."""
    phases = [phase for _, phases in trainings(config, ppo) for phase in phases]
    roles = [role for role in _LARGEST_FIRST if any(role in phase for phase in phases)]
    per_node = min(devices.per_node, devices.gpus)
    sizes = [(1, size) for size in range(1, per_node + 1) if per_node % size == 0]
    machines = devices.gpus // per_node
    sizes += [(1 << n, per_node) for n in range(1, machines.bit_length()) if 1 << n <= machines]
    for together in _TOGETHER:
        group = {role: together.get(role, role) for role in roles}
        names = list(dict.fromkeys(group.values()))
        for chosen in product(sizes, repeat=len(names)):
            size = dict(zip(names, chosen, strict=True))
            at_once = [{group[role] for role in phase} for phase in phases]
            if any(sum(math.prod(size[name]) for name in held) > devices.gpus for held in at_once):
                continue
            yield Placements.model_validate(
                {
                    role: {
                        "nodes": size[group[role]][0],
                        "devices": size[group[role]][1],
                        "group": together.get(role),
                    }
                    for role in roles
                }
            )


def _fits(
    config: Config, placements: Placements, needs: Sequence[Need], devices: Devices, ppo: bool
) -> bool:
    if not all(_divides(config, need) for need in needs):
        return False
    for training, phases in trainings(config, ppo):
        for number, phase in enumerate(phases, 1):
            groups = groups_of(placements, phase)
            if shortfall(groups, devices.nodes()):
                return False
            here = [need for need in needs if (need.training, need.phase) == (training, number)]
            if any(
                not holds(config, [need for need in here if need.group == group], devices)
                for group in groups
            ):
                return False
    return True


def holds(config: Config, needs: Sequence[Need], devices: Devices) -> bool:
    """Whether a device has room for roles that share it."""
    if needs[0].role == "rollout":
        model = rollout_model(config)
        room = model.gpu_memory_utilization * devices.memory
        even = needs[0].group.total % model.tensor_parallel_size == 0
        return even and needs[0].memory.total <= room + 1
    # Roles that share a device work in turn: their states add up, their activations do not.
    passing = [need.memory.activations + need.memory.logits for need in needs]
    states = sum(need.memory.total for need in needs) - sum(passing)
    return states + max(passing) <= HEADROOM * devices.memory


def _divides(config: Config, need: Need) -> bool:
    """Whether the ranks share a batch evenly."""
    if need.role not in TRAINED[need.training]:
        return True
    options = options_of(config, need.training)
    return options.batch_size % (options.micro_batch_size * need.group.total) == 0


def _size(placements: Placements) -> tuple[int, ...]:
    """What makes a layout the better one: roles apart, then the most important ones large."""
    found = [getattr(placements, role) for role in _LARGEST_FIRST]
    apart = -sum(placement.group is not None for placement in found)
    return (apart, *(placement.nodes * placement.devices for placement in found))


def _with(config: Config, saving: Mapping[str, object]) -> Config:
    stages: dict[str, Any] = {
        kind: getattr(config.training, kind).model_copy(update=saving) for kind in kinds_of(config)
    }
    training = config.training.model_copy(update=stages)
    return config.model_copy(update={"training": training})


def _changes(config: Config, saving: Mapping[str, object]) -> dict[str, object]:
    return {
        f"training.{kind}.{key}": value
        for kind in kinds_of(config)
        for key, value in saving.items()
        if getattr(options_of(config, kind), key) != value
    }
