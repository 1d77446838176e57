"""How much memory each role of a configuration takes on each of its devices."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from aloe.config import Config, DpoConfig, OptimizerStage, Placements, TrainingStage, VllmModel
from aloe.placement.layout import Group, Node, groups_of
from aloe.placement.memory import Memory, Shape, engine, frozen, trained
from aloe.placement.phases import PPO, Phases, kinds_of, phases_of

TRAINED = {"sft": {"actor"}, "reward": {"reward"}, "dpo": {"actor"}, "ppo": {"actor", "critic"}}
"""Roles whose weights move; the others only answer."""


@dataclass(frozen=True)
class Devices:
    """What there is: machines alike."""

    gpus: int
    per_node: int
    memory: float
    """Bytes of each device."""

    def nodes(self) -> list[Node]:
        """The machines; the last one may have fewer devices."""
        number, rest = divmod(self.gpus, self.per_node)
        sizes = [self.per_node] * number + [rest] * (rest > 0)
        return [Node(f"machine {i}", gpus, gpus) for i, gpus in enumerate(sizes)]


@dataclass(frozen=True)
class Need:
    """What one role takes on each of its devices."""

    training: str
    """sft, reward, dpo or ppo; "generation" for an engine."""
    phase: int
    role: str
    group: Group
    memory: Memory


def needs_of(
    config: Config, placements: Placements, shape: Shape, devices: Devices, ppo: bool
) -> list[Need]:
    """Memory of each role in each phase of each training, on these placements.

    Args:
        shape: of ``training.base``.
        ppo: the five roles of PPO as well; where ``training.ppo`` is not set, with the settings of
            ``training.dpo``.

    Raises:
        UserError: roles of one group want different shapes.
    """
    return [
        Need(training, number, role, group, _memory(config, training, role, group, shape, devices))
        for training, phases in trainings(config, ppo)
        for number, phase in enumerate(phases, 1)
        for group in groups_of(placements, phase)
        for role in group.roles
    ]


def trainings(config: Config, ppo: bool) -> Iterator[tuple[str, Phases]]:
    """Each training that is planned for, with its phases."""
    for kind in kinds_of(config):
        yield kind, phases_of(config, kind)
    if ppo and config.training.ppo is None:
        yield "ppo", PPO


def options_of(config: Config, training: str) -> OptimizerStage:
    """The settings of a training."""
    found: OptimizerStage | None = getattr(config.training, training)
    return found or config.training.dpo or DpoConfig()


def engine_need(name: str, model: VllmModel, shape: Shape, devices: Devices) -> Need:
    """A vLLM engine: its KV cache takes what is left of its share, at least one whole sequence."""
    memory = _engine(model, shape, devices)
    group = Group(name, 1, model.tensor_parallel_size, (name,))
    return Need("generation", 1, name, group, memory)


def rollout_model(config: Config) -> VllmModel:
    """The engine that speaks for the policy: the unguided assistant's, if that is a vLLM model."""
    model = config.models[config.roles.unguided]
    if isinstance(model, VllmModel):
        return model
    longest = options_of(config, "ppo").max_len
    return VllmModel(backend="vllm", path=config.training.base, max_model_len=longest)


def _memory(
    config: Config, training: str, role: str, group: Group, shape: Shape, devices: Devices
) -> Memory:
    if role == "rollout":
        return _engine(rollout_model(config), shape, devices)
    options = options_of(config, training)
    tokens, asked = _tokens(config, options, 1 if training in ("sft", "ppo") else 2)
    if role in ("reward", "critic"):  # a head with one number instead of logits
        asked = 0
    ranks, stage = group.total, options.zero_stage
    if role in TRAINED[training]:
        return trained(shape, ranks, stage, tokens, asked, options.gradient_checkpointing)
    return frozen(shape, ranks, stage, tokens, asked)


def _engine(model: VllmModel, shape: Shape, devices: Devices) -> Memory:
    room = model.gpu_memory_utilization * devices.memory
    least = engine(shape, model.tensor_parallel_size, model.max_model_len)
    cache = max(least.kv_cache, room - least.weights)
    return Memory(weights=least.weights, kv_cache=cache)


def _tokens(config: Config, options: OptimizerStage, replies: int) -> tuple[int, int]:
    """Tokens of one forward pass at most, and those of them whose logits are needed.

    Args:
        replies: per row.
    """
    rows = options.micro_batch_size
    plain = rows * replies * options.max_len
    if not isinstance(options, TrainingStage) or not options.tree_packing:
        return plain, plain
    of_replies = rows * replies * min(config.dialogue.sampling.max_tokens, options.max_len)
    # Rows of a pass are neighbours: of one tree, or of trees that meet there.
    trees = min(rows, 1 + -(-rows // config.dialogue.turns))
    return min(plain, trees * options.max_len + of_replies), of_replies
