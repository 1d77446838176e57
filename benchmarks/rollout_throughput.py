"""Output tokens per second of a tree rollout beside its ceiling, lockstep and one after the other.

    python benchmarks/rollout_throughput.py --trees 64 --turns 2 --json FILE

Variants, each from an empty prefix cache, all on one checkpoint and, but for the last, with the
same vLLM settings:
  rollout     this project's: every tree is a coroutine behind the admission gate, no barrier
  ceiling     the very same prompts, seeds and lengths, submitted to the engine all at once
  lockstep    the same trees, but all of them advance one call at a time, each as one `llm.chat`
  sequential  the same prompts and lengths, one after the other through `transformers.generate`,
              as the published code does; of the first trees only, as it is slow

Rollout and ceiling take turns on one engine, in rotated order. `vllm.LLM` does not live beside it
in one process, so lockstep follows when that engine is closed. ``--prefix-cache both`` does all of
it once more without the prefix cache.

The last ratio, lockstep_gpu_model, needs no model: scripted speakers whose step takes nearly the
same time for one sequence as for hundreds, as on a GPU.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import itertools
import os
import pstats
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

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

from aloe.config import DialogueConfig, ScriptedModel, VllmModel
from aloe.dialogue.tree import TreeSeed, grow_tree
from aloe.engines import Completion, Engine, Request
from aloe.engines.actors import AdmissionGate
from aloe.engines.base import Load
from aloe.engines.scripted import ScriptedEngine

Runs = dict[str, list[dict[str, Any]]]
console = Console()


@dataclass
class Recorder:
    """Passes requests on and remembers them with what they became."""

    engine: Engine
    calls: list[tuple[Request, Completion]] = field(default_factory=list)

    async def complete(self, request: Request) -> Completion:
        completion = await self.engine.complete(request)
        self.calls.append((request, completion))
        return completion

    def load(self) -> Load:
        return self.engine.load()

    def release(self, conversation: str) -> None:
        self.engine.release(conversation)

    def close(self) -> None:
        self.engine.close()


Batch = Callable[[list[Request]], Awaitable[Sequence[Completion]]]


class Lockstep:
    """Holds calls back until every open tree waits for one; they then run as one batch."""

    def __init__(self, batch: Batch, trees: int) -> None:
        self.batch, self.open_trees = batch, trees
        self.calls: list[tuple[Request, Completion]] = []
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


async def rollout(engine: Engine, trees: list[TreeSeed], config: DialogueConfig, most: int) -> Any:
    """What an actor of `aloe.dialogue` does, without files."""
    recorder = Recorder(engine)
    gate = AdmissionGate(lambda: [engine.load()], most)

    async def grow(tree: TreeSeed) -> None:
        async with gate.admitted():
            await grow_tree(tree, dict.fromkeys(ROLES, recorder), config)
            engine.release(tree.tree_id)

    await asyncio.gather(*map(grow, trees))
    return recorder.calls


async def lockstep(batch: Batch, trees: list[TreeSeed], config: DialogueConfig) -> Any:
    steps = Lockstep(batch, len(trees))

    async def grow(tree: TreeSeed) -> None:
        await grow_tree(tree, dict.fromkeys(ROLES, steps), config)
        steps.open_trees -= 1
        await steps.advance()

    await asyncio.gather(*map(grow, trees))
    return steps.calls


async def ceiling(engine: Engine, recorded: list[tuple[Request, Completion]]) -> Any:
    """Recorded calls all at once; the same seeds give the same lengths."""
    recorder = Recorder(engine)
    bounded = [replace(request, max_tokens=done.completion_tokens) for request, done in recorded]
    await asyncio.gather(*map(recorder.complete, bounded))
    return recorder.calls


async def timed(work: Awaitable[Any], steps: Callable[[], int]) -> tuple[dict[str, Any], Any]:
    before, cpu, start = steps(), os.times(), time.monotonic()
    calls = await work
    seconds = time.monotonic() - start
    output = sum(answer.completion_tokens for _, answer in calls)
    return {
        "seconds": seconds,
        "output_tokens": output,
        "tokens_per_s": output / seconds,
        "steps": steps() - before,
        "computed_prompt_tokens": sum(a.prompt_tokens - a.cached_tokens for _, a in calls),
        "calls": len(calls),
        "driver_cpu_s": os.times().user + os.times().system - cpu.user - cpu.system,
    }, calls


async def measure_async(
    model: VllmModel, trees: list[TreeSeed], config: DialogueConfig, repeats: int, profile: bool
) -> tuple[Runs, list[tuple[Request, Completion]]]:
    """Rollout and ceiling on one AsyncLLM; also the calls of the first rollout."""
    from aloe.engines.vllm import VllmEngine

    engine = VllmEngine("bench", model)
    most = 2 * model.max_num_seqs
    await rollout(engine, trees[:2], config, most)  # grammars, threads, allocator
    runs: Runs = {"rollout": [], "ceiling": []}
    recorded: list[tuple[Request, Completion]] = []
    for repeat in range(repeats):
        # The first ceiling replays the first rollout.
        for name in rotated(runs, repeat):
            await engine.forget_prefixes()
            work = (
                ceiling(engine, recorded)
                if name == "ceiling"
                else rollout(engine, trees, config, most)
            )
            profiler = cProfile.Profile()
            if profile and name == "rollout":
                profiler.enable()
            run, calls = await timed(work, lambda: engine.stats.steps)
            profiler.disable()
            runs[name].append(run)
            recorded = recorded or calls
            if profile and name == "rollout":
                pstats.Stats(profiler).sort_stats("cumulative").print_stats(25)
    engine.close()
    return runs, recorded


async def measure_lockstep(
    model: VllmModel, trees: list[TreeSeed], config: DialogueConfig, repeats: int
) -> list[dict[str, Any]]:
    from vllm import LLM

    from aloe.engines.vllm import completion_of, engine_options, sampling_params

    llm = LLM(**engine_options(model))
    tokenizer, counted, step = llm.get_tokenizer(), itertools.count(), llm.llm_engine.step
    done = 0

    def counting() -> Any:
        nonlocal done
        done = next(counted) + 1
        return step()

    llm.llm_engine.step = counting

    def chat(requests: list[Request]) -> list[Completion]:
        ids = [
            {choice: tokenizer.encode(choice, add_special_tokens=False)[0] for choice in r.choices}
            for r in requests
        ]
        outputs = llm.chat(
            [request.messages for request in requests],
            [sampling_params(r, r.max_tokens, i) for r, i in zip(requests, ids, strict=True)],
            use_tqdm=False,
        )
        return [completion_of("bench", output, i) for output, i in zip(outputs, ids, strict=True)]

    async def batch(requests: list[Request]) -> list[Completion]:
        return await asyncio.to_thread(chat, requests)

    await lockstep(batch, trees[:2], config)
    runs = []
    for _ in range(repeats):
        llm.reset_prefix_cache()
        run, _ = await timed(lockstep(batch, trees, config), lambda: done)
        runs.append(run)
    llm.llm_engine.engine_core.shutdown()
    return runs


def measure_sequential(path: str, calls: list[tuple[Request, Completion]]) -> dict[str, Any]:
    """One `generate` per call. Choices are one forward pass, JSON is free text of that length."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from aloe.engines.embedded import resolve_checkpoint

    folder = resolve_checkpoint(path)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    start, output, prompts = time.monotonic(), 0, 0
    for request, answer in calls:
        ids = tokenizer.apply_chat_template(
            request.messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        length = answer.completion_tokens
        greedy = (
            {"do_sample": False}
            if request.temperature == 0 or request.choices
            else {"do_sample": True, "temperature": request.temperature, "top_p": request.top_p}
        )
        with torch.inference_mode():
            made = model.generate(
                **ids, min_new_tokens=length, max_new_tokens=length, pad_token_id=0, **greedy
            )
        output += made.shape[1] - ids["input_ids"].shape[1]
        prompts += ids["input_ids"].shape[1]
    seconds = time.monotonic() - start
    return {
        "seconds": seconds,
        "output_tokens": output,
        "tokens_per_s": output / seconds,
        "steps": output,
        "computed_prompt_tokens": prompts,
        "calls": len(calls),
    }


def measure_gpu_model(trees: list[TreeSeed], repeats: int) -> Runs:
    """Rollout and lockstep on a scripted engine: 25 ms a step, 0.02 ms more per sequence."""
    model = ScriptedModel(
        backend="scripted", step_s=0.025, step_s_per_sequence=0.00002, max_num_seqs=256
    )
    config = DialogueConfig(turns=4)
    runs: Runs = {"gpu model rollout": [], "gpu model lockstep": []}

    async def both() -> None:
        for repeat in range(repeats):
            for name in rotated(runs, repeat):
                engine = ScriptedEngine("script", model)

                async def batch(requests: list[Request], engine: Engine = engine) -> Any:
                    return await asyncio.gather(*map(engine.complete, requests))

                work = (
                    lockstep(batch, trees, config)
                    if name.endswith("lockstep")
                    else rollout(engine, trees, config, 2 * model.max_num_seqs)
                )
                runs[name].append((await timed(work, lambda: 0))[0])

    asyncio.run(both())
    return runs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    dialogue_arguments(parser, trees=64, kv_gib=6)
    parser.add_argument("--prefix-cache", choices=["on", "off", "both"], default="both")
    parser.add_argument("--uncached-trees", type=int, default=16, help="trees without the cache")
    parser.add_argument("--sequential-trees", type=int, default=1, help="0 leaves it out")
    parser.add_argument("--profile", action="store_true", help="where the driver's time goes")
    arguments = parser.parse_args()

    config = dialogue_config(arguments)
    trees = tree_seeds(arguments.trees)
    runs: Runs = measure_gpu_model(trees, arguments.repeats)
    caches = {"on": [True], "off": [False], "both": [True, False]}[arguments.prefix_cache]
    for cached in caches:
        model = VllmModel(
            backend="vllm",
            path=arguments.model,
            max_num_seqs=64,
            kv_cache_gib=arguments.kv_gib,
            enable_prefix_caching=cached,
        )
        some, label = (trees, "") if cached else (trees[: arguments.uncached_trees], ", no cache")
        found, recorded = asyncio.run(
            measure_async(model, some, config, arguments.repeats, arguments.profile)
        )
        runs |= {f"{name}{label}": part for name, part in found.items()}
        locked = asyncio.run(measure_lockstep(model, some, config, arguments.repeats))
        runs[f"lockstep{label}"] = locked
        if arguments.sequential_trees and "sequential" not in runs:
            first = {tree.tree_id for tree in some[: arguments.sequential_trees]}
            calls = [call for call in recorded if call[0].conversation in first]
            runs["sequential"] = [measure_sequential(arguments.model, calls)]
    ratios = show(runs)
    write_json(arguments, ratios, runs)


def show(runs: Runs) -> dict[str, float]:
    """Print the table; returns the ratios."""
    keys = ("tokens_per_s", "seconds", "steps", "computed_prompt_tokens", "output_tokens", "calls")
    table = Table("variant", *(key.replace("_", " ") for key in keys))
    for name, part in runs.items():
        table.add_row(name, *(f"{median(part, key):,.1f}" for key in keys))
    console.print(table)
    speed = {name: median(part, "tokens_per_s") for name, part in runs.items()}
    pairs = {
        "ceiling": ("rollout", "ceiling"),
        "lockstep": ("rollout", "lockstep"),
        "sequential": ("rollout", "sequential"),
        "ceiling_no_cache": ("rollout, no cache", "ceiling, no cache"),
        "lockstep_no_cache": ("rollout, no cache", "lockstep, no cache"),
        "lockstep_gpu_model": ("gpu model rollout", "gpu model lockstep"),
    }
    ratios = {
        key: speed[ours] / speed[other]
        for key, (ours, other) in pairs.items()
        if ours in speed and other in speed
    }
    for key, ratio in ratios.items():
        console.print(f"{key}: {ratio:.3f}")
    return ratios


if __name__ == "__main__":
    main()
