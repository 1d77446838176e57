"""Whether there is room for engines beside what is there, by numbers.

On GPUs an engine's devices are its own: Ray's count of them decides. Where GPUs are only logical,
all processes share the machine's memory, so estimates in bytes decide as well.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

import psutil

from aloe.config import Config, VllmModel
from aloe.engines.embedded import only_config
from aloe.machine import machine_has_gpu
from aloe.placement.cluster import free_nodes
from aloe.placement.layout import groups_of, shortfall
from aloe.placement.memory import GIB, Shape, shape_of
from aloe.placement.needs import Devices, Need, needs_of, rollout_model
from aloe.placement.phases import Kind, phases_of

_HEADROOM = 0.9
"""Share of the free memory that is planned with."""
_PROCESS = GIB // 2
"""Bytes that a process takes beside its model: what it has imported, and heaps."""
_FLOAT32 = 4
_TWICE = 2
"""On a CPU activations and logits are in float32, twice of what `aloe.placement.memory` counts.
States are the same: without a master copy, weights, gradients and Adam take 16 bytes as well."""


def training_fits(config: Config, kind: Kind) -> bool:
    """Whether a training has room beside the engines that are there now."""
    phases = [groups_of(config.placements, phase) for phase in phases_of(config, kind)]
    if any(shortfall(groups, free_nodes()) for groups in phases):
        return False
    if machine_has_gpu():
        return True
    shape = _shape(config.training.base, config.training.trust_remote_code)
    devices = Devices(gpus=1, per_node=1, memory=0)  # not a GPU's: shared by all
    wanted: dict[int, float] = {}
    for need in needs_of(config, config.placements, shape, devices, ppo=False):
        if need.training == kind:
            bytes_ = _bytes_of(config, need) * need.group.total
            wanted[need.phase] = wanted.get(need.phase, 0.0) + bytes_
    return _holds(max(wanted.values(), default=0.0))


def _bytes_of(config: Config, need: Need) -> float:
    """Memory that one process of a role takes without a GPU."""
    if need.role == "rollout":
        return engine_bytes(rollout_model(config).model_copy(update={"pool": None}))
    passing = need.memory.activations + need.memory.logits
    return need.memory.total + (_TWICE - 1) * passing + _PROCESS


def engines_fit(models: Iterable[VllmModel]) -> bool:
    """Whether this machine's memory has room for engines of these models, each of its pool."""
    if machine_has_gpu():
        return True
    return _holds(sum(engine_bytes(model) for model in models))


def engine_bytes(model: VllmModel) -> float:
    """Memory that the engines of a model take without a GPU: weights, KV cache, two processes."""
    shape = _shape(model.path, model.trust_remote_code)
    each = _FLOAT32 * shape.parameters + model.kv_cache_gib * GIB + 2 * _PROCESS
    return each * (model.pool.replicas if model.pool else 1)


def _holds(wanted: float) -> bool:
    return wanted <= _HEADROOM * psutil.virtual_memory().available


@cache
def _shape(path: str, trust_remote_code: bool) -> Shape:
    with only_config(path) as folder:
        return shape_of(folder, trust_remote_code)
