"""How much memory a model takes on one device. Estimates, in bytes; nothing here loads weights.

States follow ZeRO (arXiv 1910.02054, section 3.1): with mixed precision 2 bytes a parameter for
weights, 2 for gradients and 12 for Adam's master copy, momentum and variance, divided over the
ranks from stage 1 (optimizer), 2 (gradients) and 3 (weights) on. Activations are counted as in
arXiv 2205.05198, section 4, for a layer as transformers computes it: gated, with attention that
keeps no matrix of scores.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass
from typing import Any

GIB = 1 << 30
HALF = 2
"""Bytes of a parameter and of an activation on a GPU, where training is in bfloat16."""
_ADAM = 12
_LOGIT = 12
"""Bytes of one logit: itself, in float32, and the gradients of both."""


@dataclass(frozen=True)
class Shape:
    """Sizes of a causal language model."""

    parameters: int
    layers: int
    hidden: int
    intermediate: int
    kv_heads: int
    head_dim: int
    vocabulary: int


@dataclass(frozen=True)
class Memory:
    """Bytes on one device."""

    weights: float = 0
    gradients: float = 0
    optimizer: float = 0
    activations: float = 0
    logits: float = 0
    kv_cache: float = 0

    @property
    def total(self) -> float:
        return float(sum(astuple(self)))


def shape_of(checkpoint: str, trust_remote_code: bool) -> Shape:
    """Sizes of the model in a folder, from its ``config.json``; parameters are counted, not loaded.

    Args:
        checkpoint: what `aloe.engines.embedded.resolve_checkpoint` gives.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    found: Any = AutoConfig.from_pretrained(checkpoint, trust_remote_code=trust_remote_code)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(found, trust_remote_code=trust_remote_code)
    config = found.get_text_config()
    heads = config.num_attention_heads
    return Shape(
        parameters=sum(part.numel() for part in model.parameters()),
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        intermediate=getattr(config, "intermediate_size", None) or 4 * config.hidden_size,
        kv_heads=getattr(config, "num_key_value_heads", None) or heads,
        head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
        vocabulary=config.vocab_size,
    )


def trained(
    shape: Shape, ranks: int, zero_stage: int, tokens: int, asked: int, checkpointing: bool
) -> Memory:
    """One rank of a model that is trained.

    Args:
        ranks: over which ZeRO divides.
        tokens: of one forward pass.
        asked: tokens of it whose logits are needed.
        checkpointing: only inputs of layers are kept, and one layer is computed again at a time.
    """
    divided = [ranks if zero_stage >= stage else 1 for stage in (3, 2, 1)]
    layer = tokens * layer_elements(shape) * HALF
    kept = tokens * shape.hidden * HALF
    return Memory(
        weights=HALF * shape.parameters / divided[0],
        gradients=HALF * shape.parameters / divided[1],
        optimizer=_ADAM * shape.parameters / divided[2],
        activations=shape.layers * kept + layer if checkpointing else shape.layers * layer,
        logits=_LOGIT * asked * shape.vocabulary,
    )


def frozen(shape: Shape, ranks: int, zero_stage: int, tokens: int, asked: int) -> Memory:
    """One rank of a model that only answers; ZeRO divides it at stage 3 only.

    Args:
        tokens: of one forward pass.
        asked: tokens of it whose logits are needed.
    """
    return Memory(
        weights=HALF * shape.parameters / (ranks if zero_stage == 3 else 1),
        activations=tokens * layer_elements(shape) * HALF,
        logits=(HALF + 4) * asked * shape.vocabulary,
    )


def engine(shape: Shape, tensor_parallel: int, tokens: int) -> Memory:
    """One device of a vLLM engine whose KV cache holds ``tokens``."""
    return Memory(
        weights=HALF * shape.parameters / tensor_parallel,
        kv_cache=tokens * kv_bytes(shape) / tensor_parallel,
    )


def kv_bytes(shape: Shape) -> int:
    """Bytes of one token in a KV cache, over all layers."""
    return 2 * shape.layers * shape.kv_heads * shape.head_dim * HALF


def layer_elements(shape: Shape) -> int:
    """Numbers that one layer keeps of each token for its backward pass.

    Two norms, queries, repeated keys and values, attention's output and the two residuals make 14
    times the hidden size (norms keep a float32 copy); gate, its activation, the other branch and
    their product make 4 times the intermediate one. Bounds what torch saves from above, by at most
    a tenth (tests/unit/test_placement_memory.py measures it).
    """
    return 14 * shape.hidden + 4 * shape.intermediate
