"""Output tokens per second of a tree rollout against the engine's ceiling and against lockstep.

    python benchmarks/rollout_throughput.py --trees 16 --turns 3 --json FILE

Three variants on one engine, in rotated order, each from an empty prefix cache:
  rollout   this project's: every tree is a coroutine, no barrier
  ceiling   the very same prompts and output lengths, submitted all at once
  lockstep  the same trees, but all of them advance one call at a time
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from aloe.config import DialogueConfig, Sampling, VllmModel
from aloe.dialogue.tree import TreeSeed, grow_tree
from aloe.engines import Completion, Engine, Request
from aloe.engines.vllm import VllmEngine
from aloe.personas.importing import read_pool_files
from aloe.roles import Persona

ROLES = ("user", "inducer", "guided", "unguided", "judge")
SEEDS = Path(__file__).parent.parent / "aloe" / "personas" / "seeds"


@dataclass
class Recorder:
    """Passes requests on and remembers them with what they became."""

    engine: Engine
    calls: list[tuple[Request, Completion]] = field(default_factory=list)

    async def complete(self, request: Request) -> Completion:
        completion = await self.engine.complete(request)
        self.calls.append((request, completion))
        return completion

    def close(self) -> None:
        self.engine.close()


class Lockstep:
    """Holds calls back until every open tree waits for one; they then run as one batch."""

    def __init__(self, engine: Engine, trees: int) -> None:
        self.engine, self.open_trees = engine, trees
        self._waiting: list[tuple[int, Request, asyncio.Future[Completion]]] = []
        self._running = False

    def for_tree(self, tree: int) -> LockstepTree:
        return LockstepTree(self, tree)

    async def submit(self, tree: int, request: Request) -> Completion:
        future: asyncio.Future[Completion] = asyncio.get_running_loop().create_future()
        self._waiting.append((tree, request, future))
        await self._advance()
        return await future

    async def tree_ended(self) -> None:
        self.open_trees -= 1
        await self._advance()

    async def _advance(self) -> None:
        await asyncio.sleep(0)  # lets a tree place both calls of a pair
        if self._running or len({tree for tree, _, _ in self._waiting}) < self.open_trees:
            return
        batch, self._waiting, self._running = self._waiting, [], True
        answers = await asyncio.gather(*(self.engine.complete(request) for _, request, _ in batch))
        self._running = False
        for (_, _, future), answer in zip(batch, answers, strict=True):
            future.set_result(answer)


@dataclass
class LockstepTree:
    """One tree's view of `Lockstep`."""

    steps: Lockstep
    tree: int

    async def complete(self, request: Request) -> Completion:
        return await self.steps.submit(self.tree, request)

    def close(self) -> None:
        return None


def tree_seeds(count: int) -> list[TreeSeed]:
    profiles = read_pool_files([str(SEEDS / "profiles.jsonl")])
    personalities = read_pool_files([str(SEEDS / "personalities.jsonl")])
    return [
        TreeSeed(
            f"tree-{i}",
            Persona(f"p{i}", profiles[i % len(profiles)], personalities[i % len(personalities)]),
            "train",
            0,
            "benchmark",
        )
        for i in range(count)
    ]


async def rollout(engine: Engine, trees: list[TreeSeed], config: DialogueConfig) -> Recorder:
    recorder = Recorder(engine)
    roles = dict.fromkeys(ROLES, recorder)
    await asyncio.gather(*(grow_tree(tree, roles, config) for tree in trees))
    return recorder


async def lockstep(engine: Engine, trees: list[TreeSeed], config: DialogueConfig) -> Recorder:
    recorder = Recorder(engine)
    steps = Lockstep(recorder, len(trees))

    async def grow(number: int, tree: TreeSeed) -> None:
        await grow_tree(tree, dict.fromkeys(ROLES, steps.for_tree(number)), config)
        await steps.tree_ended()

    await asyncio.gather(*(grow(number, tree) for number, tree in enumerate(trees)))
    return recorder


async def ceiling(engine: Engine, calls: list[tuple[Request, Completion]]) -> Recorder:
    """Replay recorded calls all at once; the same seeds give the same lengths."""
    recorder = Recorder(engine)
    bounded = [replace(request, max_tokens=answer.completion_tokens) for request, answer in calls]
    await asyncio.gather(*(recorder.complete(request) for request in bounded))
    return recorder


async def measure(engine: VllmEngine, arguments: argparse.Namespace) -> dict[str, list[dict]]:
    config = DialogueConfig(
        turns=arguments.turns,
        sampling=Sampling(temperature=0.8, max_tokens=arguments.max_tokens),
        induction_max_tokens=100,
    )
    trees = tree_seeds(arguments.trees)
    recorded = (await rollout(engine, trees[:2], config)).calls  # warm-up: grammars, caches
    runs: dict[str, list[dict[str, Any]]] = {"rollout": [], "ceiling": [], "lockstep": []}
    recorded = (await rollout(engine, trees, config)).calls
    variants = {
        "rollout": lambda: rollout(engine, trees, config),
        "ceiling": lambda: ceiling(engine, recorded),
        "lockstep": lambda: lockstep(engine, trees, config),
    }
    names = list(variants)
    for repeat in range(arguments.repeats):
        for name in names[repeat % 3 :] + names[: repeat % 3]:
            await engine.forget_prefixes()
            start, cpu = time.monotonic(), os.times()
            done = await variants[name]()
            seconds = time.monotonic() - start
            output = sum(c.completion_tokens for _, c in done.calls)
            computed = sum(c.prompt_tokens - c.cached_tokens for _, c in done.calls)
            runs[name].append(
                {
                    "seconds": seconds,
                    "output_tokens": output,
                    "tokens_per_s": output / seconds,
                    "computed_prompt_tokens": computed,
                    "calls": len(done.calls),
                    "driver_cpu_s": os.times().user - cpu.user,
                }
            )
    return runs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trees", type=int, default=16)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--max-tokens", type=int, default=60)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--model", default="embedded://smollm2-135m")
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    arguments = parser.parse_args()

    model = VllmModel(backend="vllm", path=arguments.model, max_num_seqs=64, kv_cache_gib=2)
    engine = VllmEngine("bench", model)
    runs = asyncio.run(measure(engine, arguments))
    engine.close()

    def median(name: str, key: str) -> float:
        return statistics.median(run[key] for run in runs[name])

    speed = {name: median(name, "tokens_per_s") for name in runs}
    ratios = {
        "ceiling": speed["rollout"] / speed["ceiling"],
        "lockstep": speed["rollout"] / speed["lockstep"],
    }
    table = Table("variant", "tok/s", "seconds", "computed prompt tokens", "output tokens")
    for name in runs:
        keys = ("tokens_per_s", "seconds", "computed_prompt_tokens", "output_tokens")
        table.add_row(name, *(f"{median(name, key):.1f}" for key in keys))
    console = Console()
    console.print(table)
    console.print(
        f"rollout / ceiling {ratios['ceiling']:.3f}, rollout / lockstep {ratios['lockstep']:.3f}"
    )
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        settings = {k: v for k, v in vars(arguments).items() if k != "json"}
        machine = {"cores": os.cpu_count(), "machine": platform.machine()}
        document = {"ratios": ratios, "settings": settings, "machine": machine, "runs": runs}
        arguments.json.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
