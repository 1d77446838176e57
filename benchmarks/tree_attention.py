"""Packed trees with flex attention on a GPU: how exact, how fast, how often compiled.

    python benchmarks/tree_attention.py --json FILE

Exactness, on trees of several shapes and a small model: log-probs and gradients of packed trees,
and of one sequence per row, in float32 and bfloat16, against one sequence per row in float32.

Speed, on a model with the shape of SmolLM2-1.7B in bfloat16; no two trees have the same length:
  flex    a tree in one pass, forward and backward, flex attention
  dense   the same with a dense mask and torch's sdpa
  plain   one pair to a pass, sdpa
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from array import array
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import aloe.training.worker  # isort: skip  # noqa: F401  (first: it prepares the process)

import torch
from measuring import write_json
from openrlhf.models import Actor
from random_model import SHAPE
from transformers import LlamaConfig, LlamaForCausalLM

from aloe.training import tree_actor
from aloe.training.data import Encoded
from aloe.training.plain_actor import PlainActor
from aloe.training.token_tree import pack
from aloe.training.tree_actor import TreeActor
from aloe.training.worker import pad

WORDS = 49152
Rows = list[Encoded]


def tree(rng: random.Random, turns: int, user: int, reply: int) -> Rows:
    """Two rows for each turn of a spine; lengths are drawn within a third of the given ones."""

    def words(mean: int) -> list[int]:
        return rng.choices(range(WORDS), k=rng.randint(mean - mean // 3, mean + mean // 3))

    history: list[int] = words(user)
    rows: Rows = []
    for _ in range(turns):
        history = history + words(user)
        replies = [words(reply), words(reply)]
        rows += [Encoded(array("i", history + words_), len(history)) for words_ in replies]
        history = history + replies[0]
    return rows


def dense(end: torch.Tensor) -> torch.Tensor:
    node = torch.arange(len(end), device=end.device)
    return ((node[None] <= node[:, None]) & (node[:, None] < end[None]))[None, None]


def actor(kind: type[Actor], attention: str, dtype: torch.dtype, shape: dict[str, Any]) -> Actor:
    config = LlamaConfig(**shape | {"vocab_size": WORDS, "attn_implementation": attention})
    torch.manual_seed(0)
    torch.set_default_dtype(dtype)
    try:
        with torch.device("cuda"):
            model = LlamaForCausalLM(config)
    finally:
        torch.set_default_dtype(torch.float32)
    made = kind(model)
    made.packing_samples = False
    return made


def log_probs(model: Actor, rows: Rows) -> torch.Tensor:
    """Of the replies' tokens, float32 [tokens], row after row."""
    ids, mask = (part.cuda() for part in pad(rows, 0))
    found = model(ids, attention_mask=mask, return_logprobs=True)
    return torch.cat(
        [found[index, row.prompt_length - 1 : len(row.ids) - 1] for index, row in enumerate(rows)]
    )


def by_pair(model: Actor, rows: Rows, use: Callable[[torch.Tensor], Any]) -> list[Any]:
    return [use(log_probs(model, rows[at : at + 2])) for at in range(0, len(rows), 2)]


def exactness(seeds: int) -> list[dict[str, Any]]:
    """Errors of log-probs (root of the mean square, largest) and of gradients (relative norm)."""
    shape = {
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 6,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "tie_word_embeddings": True,
    }
    models = {
        "plain float32": actor(PlainActor, "sdpa", torch.float32, shape),
        "packed float32": actor(TreeActor, "flex_attention", torch.float32, shape),
        "plain bfloat16": actor(PlainActor, "sdpa", torch.bfloat16, shape),
        "packed bfloat16": actor(TreeActor, "flex_attention", torch.bfloat16, shape),
    }
    weights = models["plain float32"].state_dict()
    for model in models.values():  # bfloat16 ones round the very same weights
        model.load_state_dict(weights)
    found = []
    for seed in range(seeds):
        rng = random.Random(seed)
        rows = tree(rng, rng.randint(1, 12), rng.randint(4, 60), rng.randint(4, 120))
        answers = {}
        for name, model in models.items():
            model.zero_grad()
            if name.startswith("packed"):
                values = log_probs(model, rows)
            else:
                values = torch.cat([log_probs(model, [row]) for row in rows])
            values.sum().backward()
            gradients = torch.cat([part.grad.float().flatten() for part in model.parameters()])
            answers[name] = values.detach(), gradients
        true, slope = answers.pop("plain float32")
        numbers: dict[str, Any] = {"rows": len(rows), "tokens": sum(len(row.ids) for row in rows)}
        for name, (values, gradients) in answers.items():
            off = (values - true).double()
            numbers[name] = {
                "rms": off.square().mean().sqrt().item(),
                "largest": off.abs().max().item(),
                "gradient": ((gradients - slope).norm() / slope.norm()).item(),
            }
        found.append(numbers)
    return found


def timed(work: Callable[[], Any]) -> float:
    torch.cuda.synchronize()
    began = time.monotonic()
    work()
    torch.cuda.synchronize()
    return time.monotonic() - began


def speed(name: str, trees: list[Rows], model: Actor) -> dict[str, Any]:
    """Seconds of each tree: once to compile, evaluated, and three times after that."""

    def train(rows: Rows) -> None:
        model.zero_grad()
        if name == "plain":
            by_pair(model, rows, lambda values: values.sum().backward())
        else:
            log_probs(model, rows).sum().backward()

    @torch.no_grad()
    def score(rows: Rows) -> None:
        if name == "plain":
            by_pair(model, rows, lambda values: values.sum().item())
        else:
            log_probs(model, rows).sum().item()

    stats = torch._dynamo.utils.counters["stats"]
    graphs = stats["unique_graphs"]
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    held = torch.cuda.memory_allocated()
    model.eval()
    first_score = [timed(partial(score, rows)) for rows in trees]
    model.train()
    first = [timed(partial(train, rows)) for rows in trees]
    model.eval()
    scores = [timed(partial(score, rows)) for _ in range(3) for rows in trees]
    model.train()
    steps = [timed(partial(train, rows)) for _ in range(3) for rows in trees]
    return {
        "variant": name,
        "first_score": first_score,
        "first_train": first,
        "score": statistics.median(scores),
        "train": statistics.median(steps),
        "graphs": stats["unique_graphs"] - graphs,
        "held_gib": held / (1 << 30),
        "peak_gib": torch.cuda.max_memory_allocated() / (1 << 30),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=12)
    parser.add_argument("--trees", type=int, default=6)
    parser.add_argument("--turns", type=int, nargs="+", default=[10, 10, 20])
    parser.add_argument("--user", type=int, nargs="+", default=[20, 60, 60])
    parser.add_argument("--reply", type=int, nargs="+", default=[45, 200, 200])
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    arguments = parser.parse_args()
    torch._dynamo.config.fail_on_recompile_limit_hit = True  # it would go on, uncompiled
    errors = exactness(arguments.seeds)
    for name in ("packed float32", "plain bfloat16", "packed bfloat16"):
        worst = {key: max(row[name][key] for row in errors) for key in errors[0][name]}
        print(name, {key: f"{value:.3g}" for key, value in worst.items()}, flush=True)
    shape = {**SHAPE, "num_hidden_layers": arguments.layers}
    runs = []
    flex_mask = tree_actor.tree_mask
    for turns, user, reply in zip(arguments.turns, arguments.user, arguments.reply, strict=True):
        rng = random.Random(turns)
        trees = [tree(rng, turns, user, reply) for _ in range(arguments.trees)]
        rows = [sum(len(row.ids) for row in part) for part in trees]
        nodes = [len(pack([list(row.ids) for row in part])) for part in trees]
        print(f"{turns} turns: {nodes} nodes, {rows} tokens in rows", flush=True)
        for name in ("flex", "dense", "plain"):
            attention = "flex_attention" if name == "flex" else "sdpa"
            kind = PlainActor if name == "plain" else TreeActor
            tree_actor.tree_mask = dense if name == "dense" else flex_mask
            model = actor(kind, attention, torch.bfloat16, shape)
            try:
                found = speed(name, trees, model)
            except torch.OutOfMemoryError:
                found = {"variant": name, "out_of_memory": True}
            runs.append({"turns": turns, "nodes": nodes, "tokens": rows, **found})
            short = {key: value for key, value in found.items() if not isinstance(value, list)}
            firsts = [
                [round(value, 2) for value in found.get(key, [])]
                for key in ("first_score", "first_train")
            ]
            print(short, firsts, flush=True)
            del model
            torch.cuda.empty_cache()
    write_json(arguments, {}, {"exactness": errors, "speed": runs})


if __name__ == "__main__":
    main()
