"""Rollouts outside of Ray: behind the admission gate, and in lockstep. Benchmarks time both."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import psutil

from aloe.config import DialogueConfig
from aloe.dialogue.tree import TreeSeed, grow_tree
from aloe.engines import Completion, Engine, Request
from aloe.engines.actors import AdmissionGate
from aloe.engines.base import Load

Calls = list[tuple[Request, Completion]]
Batch = Callable[[list[Request]], Awaitable[Sequence[Completion]]]


@dataclass
class Wrapped:
    """What wrappers around an engine have in common; each has a ``complete`` of its own."""

    engine: Engine

    def load(self) -> Load:
        return self.engine.load()

    def release(self, conversation: str) -> None:
        self.engine.release(conversation)

    def close(self) -> None:
        return None  # the engine belongs to whoever started it


@dataclass
class Recorder(Wrapped):
    """Passes requests on and remembers them with what they became."""

    calls: Calls = field(default_factory=list)

    async def complete(self, request: Request) -> Completion:
        completion = await self.engine.complete(request)
        self.calls.append((request, completion))
        return completion


class Lockstep:
    """Holds calls back until every open tree waits for one; they then run as one batch."""

    def __init__(self, batch: Batch, trees: int) -> None:
        self.batch, self.open_trees = batch, trees
        self.calls: Calls = []
        self._waiting: list[tuple[Request, asyncio.Future[Completion]]] = []
        self._running = False

    async def complete(self, request: Request) -> Completion:
        future: asyncio.Future[Completion] = asyncio.get_running_loop().create_future()
        self._waiting.append((request, future))
        await self.advance()
        return await future

    async def advance(self) -> None:
        await asyncio.sleep(0)  # lets a tree place both calls of a pair
        waiting = {request.conversation for request, _ in self._waiting}
        if self._running or not waiting or len(waiting) < self.open_trees:
            return
        batch, self._waiting, self._running = self._waiting, [], True
        answers = await self.batch([request for request, _ in batch])
        self._running = False
        for (request, future), answer in zip(batch, answers, strict=True):
            self.calls.append((request, answer))
            future.set_result(answer)

    def load(self) -> Load:
        return Load(0, 0, 1)

    def release(self, conversation: str) -> None:
        return None

    def close(self) -> None:
        return None


async def rollout(
    engine: Engine,
    speakers: Mapping[str, Engine],
    trees: list[TreeSeed],
    config: DialogueConfig,
    most: int,
) -> list[list[dict[str, Any]]]:
    """Rows by tree: what an actor of `aloe.dialogue` does, without files.

    Args:
        engine: who computes; its load decides how many trees are open, ``most`` at most.
        speakers: by role; they speak through the engine.
    """
    gate = AdmissionGate(lambda: [engine.load()], most)

    async def grow(tree: TreeSeed) -> list[dict[str, Any]]:
        async with gate.admitted():
            grown = await grow_tree(tree, speakers, config)
            engine.release(tree.tree_id)
            return grown.rows

    return await asyncio.gather(*map(grow, trees))


async def lockstep(
    batch: Batch,
    speakers: Callable[[Lockstep], Mapping[str, Engine]],
    trees: list[TreeSeed],
    config: DialogueConfig,
) -> Calls:
    """All trees at once, one call of each at a time.

    Args:
        batch: answers the calls of one step.
        speakers: by role; they speak through what it is given.
    """
    steps = Lockstep(batch, len(trees))

    async def grow(tree: TreeSeed) -> None:
        await grow_tree(tree, speakers(steps), config)
        steps.open_trees -= 1
        await steps.advance()

    await asyncio.gather(*map(grow, trees))
    return steps.calls


async def timed(work: Awaitable[Calls], steps: Callable[[], int]) -> tuple[dict[str, Any], Calls]:
    """What a variant took and made, and its calls.

    Args:
        steps: the engine's count of its steps so far.
    """
    before, cpu, start = steps(), _cpu_s(), time.monotonic()
    calls = await work
    seconds = time.monotonic() - start
    driver, engine = (after - then for after, then in zip(_cpu_s(), cpu, strict=True))
    output = sum(answer.completion_tokens for _, answer in calls)
    return {
        "seconds": seconds,
        "output_tokens": output,
        "tokens_per_s": output / seconds,
        "steps": steps() - before,
        "computed_prompt_tokens": sum(a.prompt_tokens - a.cached_tokens for _, a in calls),
        "calls": len(calls),
        "driver_cpu_s": driver,
        "engine_cpu_s": engine,
    }, calls


def _cpu_s() -> tuple[float, float]:
    """CPU seconds so far of this process, and of those that it started and that still run."""
    process = psutil.Process()
    times = [process.cpu_times(), *(child.cpu_times() for child in process.children(True))]
    own, *others = (time.user + time.system for time in times)
    return own, sum(others)
