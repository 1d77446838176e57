"""A checkpoint with random weights and the shape of SmolLM2-1.7B, to time training on a GPU.

    python benchmarks/random_model.py FOLDER --tokenizer embedded://tiny

Speed and memory hang on shapes only, and losses of the variants can be compared all the same.
"""

from __future__ import annotations

import argparse

import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from aloe.engines.embedded import resolve_checkpoint

SHAPE = {
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 24,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--tokenizer", default="embedded://tiny", help="checkpoint that has it")
    parser.add_argument("--layers", type=int, default=SHAPE["num_hidden_layers"])
    arguments = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(resolve_checkpoint(arguments.tokenizer))
    special = {
        f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("eos", "pad")
    }
    shape = {**SHAPE, "num_hidden_layers": arguments.layers, "vocab_size": len(tokenizer)}
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = LlamaForCausalLM(LlamaConfig(**shape, **special))
    model.save_pretrained(arguments.folder)
    tokenizer.save_pretrained(arguments.folder)
    print(f"{sum(part.numel() for part in model.parameters()):,} parameters")


if __name__ == "__main__":
    main()
