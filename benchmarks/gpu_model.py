"""Rollout and lockstep on a model of a GPU, whose step takes hardly longer for many calls.

    python benchmarks/gpu_model.py --trees 64 --turns 10

A part of rollout_throughput.py that also runs alone. A step lasts 10 ms, and 0.02 ms more for each
running call; answers are as long as SmolLM2's were (reply_lengths.json).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from measuring import ROLES, median, rotated, tree_seeds
from rolling import Lockstep, Recorder, Wrapped, lockstep, rollout, timed

from aloe.config import DialogueConfig, ScriptedModel
from aloe.dialogue.tree import TreeSeed
from aloe.engines import Completion, Engine, Request
from aloe.engines.base import Load
from aloe.engines.scripted import ScriptedEngine
from aloe.engines.stepping import StepClock
from aloe.schema import derive_seed

LENGTHS = Path(__file__).with_name("reply_lengths.json")
"""Tokens of answers by role, as `reply_lengths.py` measured them."""
_STEP_S, _STEP_S_PER_SEQUENCE, _MOST = 0.01, 0.00002, 256


@dataclass
class Sized(Wrapped):
    """Scripted answers of one role, as long as measured ones."""

    lengths: list[int]

    async def complete(self, request: Request) -> Completion:
        rng = random.Random(derive_seed(request.messages, request.seed))
        # The length travels with the request, so that a batch can take its steps together.
        return await self.engine.complete(replace(request, max_tokens=rng.choice(self.lengths)))


class Paced:
    """A scripted engine whose calls take as many steps as their ``max_tokens``."""

    def __init__(self) -> None:
        self._script = ScriptedEngine("script", ScriptedModel(backend="scripted"))
        self._clock = StepClock(_STEP_S, _STEP_S_PER_SEQUENCE, _MOST)

    async def complete(self, request: Request) -> Completion:
        answer = await self._script.complete(request)
        await self._clock.take(request.max_tokens)
        return replace(answer, completion_tokens=request.max_tokens)

    def load(self) -> Load:
        return Load(self._clock.running, self._clock.waiting, _MOST)

    def release(self, conversation: str) -> None:
        return None

    def close(self) -> None:
        return None


def measure_gpu_model(
    trees: list[TreeSeed], turns: int, repeats: int
) -> dict[str, list[dict[str, Any]]]:
    """Both variants, in rotated order, on engines of their own."""
    lengths: dict[str, list[int]] = json.loads(LENGTHS.read_text())["lengths"]
    config = DialogueConfig(turns=turns)
    runs: dict[str, list[dict[str, Any]]] = {"gpu model rollout": [], "gpu model lockstep": []}

    def speakers(engine: Engine) -> Mapping[str, Engine]:
        return {role: Sized(engine, lengths[role]) for role in ROLES}

    async def at_once() -> Any:
        recorder = Recorder(Paced())
        await rollout(recorder, speakers(recorder), trees, config, 2 * _MOST)
        return recorder.calls

    async def in_steps() -> Any:
        engine = Paced()

        async def batch(requests: list[Request]) -> Any:
            return await asyncio.gather(*map(engine.complete, requests))

        def locked(steps: Lockstep) -> Mapping[str, Engine]:
            return speakers(steps)

        return await lockstep(batch, locked, trees, config)

    async def both() -> None:
        for repeat in range(repeats):
            for name in rotated(runs, repeat):
                work = in_steps() if name.endswith("lockstep") else at_once()
                runs[name].append((await timed(work, lambda: 0))[0])

    asyncio.run(both())
    return runs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trees", type=int, default=64)
    parser.add_argument("--turns", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=2)
    arguments = parser.parse_args()
    trees = tree_seeds(arguments.trees)
    runs = measure_gpu_model(trees, arguments.turns, arguments.repeats)
    speed = {name: median(part, "tokens_per_s") for name, part in runs.items()}
    for name, value in speed.items():
        print(f"{name}: {value:,.0f} tok/s")
    ours, other = speed.values()
    print(f"lockstep_gpu_model: {ours / other:.3f}")


if __name__ == "__main__":
    main()
