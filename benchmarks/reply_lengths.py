"""Lengths of answers by role in a real rollout: what the GPU model of rollout_throughput.py draws.

    python benchmarks/reply_lengths.py --trees 16 --turns 3 --max-tokens 300

Writes benchmarks/reply_lengths.json, or what ``--json`` names.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics

from gpu_model import LENGTHS
from measuring import ROLES, dialogue_arguments, dialogue_config, tree_seeds
from rich.console import Console
from rich.table import Table
from rolling import rollout

from aloe.config import VllmModel
from aloe.engines.vllm import VllmEngine


async def measure(arguments: argparse.Namespace) -> dict[str, list[int]]:
    model = VllmModel(
        backend="vllm", path=arguments.model, max_num_seqs=64, kv_cache_gib=arguments.kv_gib
    )
    engine = VllmEngine("bench", model)
    speakers = dict.fromkeys(ROLES, engine)
    config = dialogue_config(arguments)
    trees = await rollout(engine, speakers, tree_seeds(arguments.trees), config, most=128)
    engine.close()
    lengths: dict[str, list[int]] = {role: [] for role in ROLES}
    for call in (call for rows in trees for row in rows for call in row["calls"]):
        lengths[call["role"]].append(call["completion_tokens"] // call["tries"])
    return {role: sorted(found) for role, found in lengths.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    dialogue_arguments(parser, trees=16, kv_gib=4)
    parser.set_defaults(max_tokens=300, json=LENGTHS)
    arguments = parser.parse_args()

    lengths = asyncio.run(measure(arguments))
    table = Table("role", "answers", "min", "median", "mean", "max")
    for role, found in lengths.items():
        middle = (statistics.median(found), statistics.fmean(found))
        table.add_row(role, *(f"{n:.0f}" for n in (len(found), found[0], *middle, found[-1])))
    Console().print(table)
    settings = {key: getattr(arguments, key) for key in ("model", "trees", "turns", "max_tokens")}
    arguments.json.write_text(json.dumps({"settings": settings, "lengths": lengths}) + "\n")


if __name__ == "__main__":
    main()
