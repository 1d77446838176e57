"""Memory estimates against published figures and against what torch keeps."""

import pytest
import torch
from transformers import AutoConfig, LlamaConfig, LlamaForCausalLM

from aloe.placement.memory import (
    Memory,
    Shape,
    engine,
    frozen,
    kv_bytes,
    layer_elements,
    shape_of,
    trained,
)

LLAMA_7B = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
}


@pytest.fixture(scope="module")
def shape(tmp_path_factory) -> Shape:
    folder = tmp_path_factory.mktemp("llama")
    LlamaConfig(**LLAMA_7B, architectures=["LlamaForCausalLM"]).save_pretrained(folder)
    return shape_of(str(folder), trust_remote_code=False)


def test_parameters_are_counted_without_weights(shape):
    assert shape.parameters == 6_738_415_616  # as the published checkpoint's index says
    assert (shape.layers, shape.kv_heads, shape.head_dim) == (32, 32, 128)


@pytest.mark.parametrize(("stage", "gigabytes"), [(0, 120), (1, 31.4), (2, 16.6), (3, 1.9)])
def test_states_are_those_of_the_zero_paper(stage, gigabytes):
    """Figure 1 of arXiv 1910.02054: 7.5e9 parameters, 64 devices."""
    model = Shape(7_500_000_000, 32, 4096, 16384, 32, 128, 50000)
    found = trained(model, 64, stage, tokens=0, asked=0, checkpointing=False)
    assert found.total / 1e9 == pytest.approx(gigabytes, abs=0.06)


def test_a_frozen_model_is_divided_at_stage_3_only(shape):
    assert frozen(shape, 8, 2, 0, 0) == Memory(weights=2 * shape.parameters)
    assert frozen(shape, 8, 3, 0, 0) == Memory(weights=2 * shape.parameters / 8)


def test_a_kv_cache_is_half_a_mebibyte_a_token(shape):
    """Section 3 of arXiv 2309.06180 counts 800 KB for 13B; 7B has 32 layers of 4096."""
    assert kv_bytes(shape) == 512 << 10
    assert engine(shape, 2, 100).kv_cache == 100 * (512 << 10) / 2


def saved_bytes(layers: int, dtype: torch.dtype, **sizes: int) -> int:
    """What autograd keeps of a forward pass of 256 tokens, weights left out."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50, num_hidden_layers=layers, attn_implementation="sdpa", **sizes
    )
    model = LlamaForCausalLM(config).to(dtype)
    weights = {part.untyped_storage().data_ptr() for part in model.parameters()}
    kept = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    mask = torch.ones(256, 256, dtype=torch.bool).tril()[None, None]
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = model(
            torch.randint(0, 50, (1, 256)), attention_mask=mask, logits_to_keep=torch.arange(2)
        )
    assert output.logits.requires_grad
    return sum(size for size, _ in kept.values())


@pytest.mark.parametrize("heads", [(4, 4), (4, 2), (8, 1)])
@pytest.mark.parametrize("intermediate", [256, 512])
def test_activations_of_a_layer_are_what_torch_keeps(heads, intermediate):
    sizes = {
        "hidden_size": 128,
        "intermediate_size": intermediate,
        "num_attention_heads": heads[0],
        "num_key_value_heads": heads[1],
    }
    bfloat16 = torch.bfloat16
    measured = (saved_bytes(3, bfloat16, **sizes) - saved_bytes(2, bfloat16, **sizes)) / 256
    config = AutoConfig.for_model("llama", **sizes)
    estimated = 2 * layer_elements(
        Shape(0, 1, config.hidden_size, config.intermediate_size, heads[1], 16, 50)
    )
    assert 0.9 * estimated <= measured <= 1.01 * estimated
