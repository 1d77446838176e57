"""Prompt tokens that a rollout gets from the prefix cache, beside the most that it could get.

    python benchmarks/prefix_cache.py --trees 16 --turns 3 --json FILE

Variants, in rotated order on one engine, each from an empty cache:
  rollout    this project's prompts: what stays the same comes first, histories grow at their end
  time stamp the same prompts after one line that differs from call to call, as a time or a request
             id at the top of a system prompt does

The most that could be served is what a trie over the token ids really sent has in common, in whole
blocks of the engine's size (`aloe.engines.prefix`). It does not depend on the machine's speed.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
from dataclasses import dataclass, field, replace

from measuring import (
    ROLES,
    dialogue_arguments,
    dialogue_config,
    median,
    rotated,
    tree_seeds,
    write_json,
)
from rich.console import Console
from rich.table import Table
from rolling import Wrapped, rollout

from aloe.config import DialogueConfig, VllmModel
from aloe.dialogue.tree import TreeSeed
from aloe.engines import Completion, Engine, Message, Request
from aloe.engines.vllm import VllmEngine

TOKENS = ("prompt_tokens", "cached_tokens", "reusable_tokens")


@dataclass
class Stamped(Wrapped):
    """Puts a line of its own before each request's first message."""

    numbers: itertools.count[int] = field(default_factory=itertools.count)

    async def complete(self, request: Request) -> Completion:
        first, *others = request.messages
        stamp = f"Request {next(self.numbers)}.\n\n{first['content']}"
        stamped: Message = {"role": first["role"], "content": stamp}
        return await self.engine.complete(replace(request, messages=[stamped, *others]))


async def tokens(
    engine: VllmEngine, speaker: Engine, trees: list[TreeSeed], config: DialogueConfig
) -> dict[str, dict[str, int]]:
    """Tokens of a rollout by role, and the engine's own counters."""
    await engine.forget_prefixes()
    queries, hits = engine.stats.prefix_queries, engine.stats.prefix_hits
    grown = await rollout(engine, dict.fromkeys(ROLES, speaker), trees, config, most=128)
    found = {role: dict.fromkeys(TOKENS, 0) for role in ROLES}
    for call in (call for rows in grown for row in rows for call in row["calls"]):
        for key in TOKENS:
            found[call["role"]][key] += call[key]
    found["all"] = {key: sum(found[role][key] for role in ROLES) for key in TOKENS}
    found["vLLM's counters"] = {
        "prompt_tokens": engine.stats.prefix_queries - queries,
        "cached_tokens": engine.stats.prefix_hits - hits,
        "reusable_tokens": found["all"]["reusable_tokens"],
    }
    return found


async def measure(arguments: argparse.Namespace) -> dict[str, list[dict[str, dict[str, int]]]]:
    model = VllmModel(
        backend="vllm",
        path=arguments.model,
        max_num_seqs=64,
        kv_cache_gib=arguments.kv_gib,
        block_size=arguments.block_size,
    )
    config = dialogue_config(arguments)
    trees = tree_seeds(arguments.trees)
    engine = VllmEngine("bench", model)
    speakers: dict[str, Engine] = {"rollout": engine, "time stamp": Stamped(engine)}
    runs: dict[str, list[dict[str, dict[str, int]]]] = {name: [] for name in speakers}
    for repeat in range(arguments.repeats):
        for name in rotated(speakers, repeat):
            runs[name].append(await tokens(engine, speakers[name], trees, config))
    engine.close()
    return runs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    dialogue_arguments(parser, trees=16, kv_gib=4)
    parser.add_argument("--block-size", type=int, default=32)
    arguments = parser.parse_args()

    runs = asyncio.run(measure(arguments))
    table = Table("variant", "role", "prompt", "cached", "reusable", "cached/prompt", "optimum")
    optimum: dict[str, float] = {}
    for name, part in runs.items():
        for role in part[0]:
            sums = {key: median([run[role] for run in part], key) for key in TOKENS}
            prompt, cached, reusable = sums.values()
            best = cached / reusable if reusable else float("nan")
            shown = (f"{prompt:,.0f}", f"{cached:,.0f}", f"{reusable:,.0f}")
            table.add_row(name, role, *shown, f"{cached / prompt:.1%}", f"{best:.1%}")
            optimum |= {name: best} if role == "all" else {}
    console = Console()
    console.print(table)
    ratios = {"optimum": optimum["rollout"]}
    console.print(f"optimum: {ratios['optimum']:.3f}")
    write_json(arguments, ratios, runs)


if __name__ == "__main__":
    main()
