"""``aloe placement plan``: what fits on a cluster that nobody has started yet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict

import yaml
from rich.box import SIMPLE_HEAD
from rich.table import Table

from aloe.config import Config, VllmModel, speakers_of
from aloe.engines.embedded import only_config
from aloe.errors import UserError
from aloe.placement.layout import Group
from aloe.placement.memory import GIB, Shape, kv_bytes, shape_of
from aloe.placement.needs import Devices, Need, engine_need
from aloe.placement.plan import Plan, propose
from aloe.progress import console, say, telling_json

_PARTS = {
    "weights": "weights",
    "gradients": "grads",
    "optimizer": "Adam",
    "activations": "activ.",
    "logits": "logits",
    "kv_cache": "cache",
}
"""Field of `Memory` -> column."""


def advise(config: Config, devices: Devices, ppo: bool) -> None:
    """Print what each role takes, and the ``placements`` section of the largest layout that fits.

    The section is YAML on stdout, the table is on stderr; with ``--json`` all is one line.

    Raises:
        UserError: a checkpoint's configuration cannot be read, or nothing fits.
    """
    training = config.training
    shape = _shape("training.base", training.base, training.trust_remote_code)
    plan = propose(config, devices, shape, ppo)
    speaking = _engines(config, devices)
    needs = [need for need, _ in speaking] + plan.needs
    section = {
        role: {key: value for key, value in placement.items() if value is not None}
        for role, placement in plan.placements.model_dump(exclude_unset=True).items()
    }
    if telling_json():
        say(
            "placement plan",
            placements=section,
            changes=plan.changes,
            parameters=shape.parameters,
            needs=[_row(need) for need in needs],
        )
        return
    console.print(_table(needs, devices))
    for need, holds in speaking:
        say(f"{need.role}: the KV cache holds {holds:.0f} sequences of its max_model_len")
    for key, value in plan.changes.items():
        say(f"fits only with {key}: {value}")
    print(_yaml(plan, section), end="")


def _shape(key: str, checkpoint: str, trust_remote_code: bool) -> Shape:
    with only_config(checkpoint) as folder:
        try:
            return shape_of(folder, trust_remote_code)
        except (OSError, ValueError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise UserError(
                f"{key} {checkpoint}: its config.json cannot be used: {reason}"
            ) from error


def _engines(config: Config, devices: Devices) -> list[tuple[Need, float]]:
    """The vLLM engines that speak in rollout and evaluation, and how many sequences each holds."""
    names = [*config.roles.model_dump().values(), *config.personas.writers]
    found = []
    for name, model in speakers_of(config, names).items():
        if not isinstance(model, VllmModel):
            continue
        shape = _shape(f"models.{name}", model.path, model.trust_remote_code)
        need = engine_need(f"models.{name}", model, shape, devices)
        if need.memory.total > model.gpu_memory_utilization * devices.memory + 1:
            raise UserError(
                f"models.{name}: weights and one sequence of {model.max_model_len} tokens take "
                f"{need.memory.total / GIB:.1f} GiB a device, expected at most "
                f"{model.gpu_memory_utilization * devices.memory / GIB:.1f}"
            )
        cache = need.memory.kv_cache * model.tensor_parallel_size
        found.append((need, cache / kv_bytes(shape) / model.max_model_len))
    return found


def _row(need: Need) -> dict[str, object]:
    memory = {part: round(value / GIB, 3) for part, value in asdict(need.memory).items()}
    return {
        "training": need.training,
        "phase": need.phase,
        "role": need.role,
        "nodes": need.group.nodes,
        "devices": need.group.devices,
        "shares_with": [role for role in need.group.roles if role != need.role],
        "gib": memory,
        "total_gib": round(need.memory.total / GIB, 3),
    }


def _table(needs: list[Need], devices: Devices) -> Table:
    title = (
        f"GiB on each device, of {devices.memory / GIB:g}; {devices.gpus} GPUs, "
        f"{devices.per_node} to a machine; estimated, bfloat16"
    )
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=0)
    for name in ("for", "role", "layout"):
        table.add_column(name, no_wrap=True)
    for name in (*_PARTS.values(), "all"):
        table.add_column(name, justify="right")
    several = {need.training for need in needs if need.phase > 1}
    for need in needs:
        when = f"{need.training} {need.phase}" if need.training in several else need.training
        memory = asdict(need.memory)
        parts = [f"{memory[part] / GIB:.1f}" if memory[part] else "-" for part in _PARTS]
        table.add_row(
            when, need.role, _layout(need.group), *parts, f"{need.memory.total / GIB:.1f}"
        )
    return table


def _layout(group: Group) -> str:
    shared = f" with {group.name}" if len(group.roles) > 1 else ""
    return f"{group.nodes} x {group.devices}{shared}"


def _yaml(plan: Plan, section: Mapping[str, object]) -> str:
    text: str = yaml.safe_dump({"placements": section}, sort_keys=False, default_flow_style=None)
    for key, value in plan.changes.items():
        text += f"# {key}: {str(value).lower()}\n"
    return text
