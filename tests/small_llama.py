"""A Llama small enough to be computed hundreds of times, and its gradients."""

from __future__ import annotations

from collections.abc import Callable

import torch
from transformers import LlamaConfig, LlamaForCausalLM


def small_llama(vocabulary: int) -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    config = LlamaConfig(vocab_size=vocabulary, **sizes, **heads, attn_implementation="sdpa")
    return LlamaForCausalLM(config).eval()


def assert_equal_gradients(
    model: torch.nn.Module, one: Callable[[], torch.Tensor], other: Callable[[], torch.Tensor]
) -> None:
    """Two ways to compute a loss with the same weights have the same gradients."""
    gradients = []
    for loss in (one, other):
        model.zero_grad()
        loss().backward()
        gradients.append([part.grad.clone() for part in model.parameters()])
    for mine, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-3, rtol=1e-4)
