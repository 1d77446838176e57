"""Output tokens per second of a tree rollout beside its ceiling, lockstep and one after the other.

    python benchmarks/rollout_throughput.py --trees 64 --turns 2 --json FILE

Variants, each from an empty prefix cache, all on one checkpoint and, but for the last, with the
same vLLM settings:
  rollout     this project's: every tree is a coroutine behind the admission gate, no barrier
  ceiling     the very same prompts and lengths, submitted to the engine all at once
  lockstep    the same trees, but all of them advance one call at a time, each as one `llm.chat`
  sequential  the same prompts and lengths, one after the other through `transformers.generate`,
              as the published code does; of the first trees only, as it is slow

Rollout and ceiling take turns on one engine, in rotated order. `vllm.LLM` does not live beside it
in one process, so lockstep follows when that engine is closed. ``--prefix-cache both`` does all of
it once more without the prefix cache. ``--profile`` does none of it: it shows what the process
around the engine does during one rollout, which takes longer under a profiler.

The last ratio, lockstep_gpu_model, needs no model, see `gpu_model.py`.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import itertools
import pstats
import time
from collections.abc import Mapping
from typing import Any

from gpu_model import measure_gpu_model
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
from rolling import Calls, Lockstep, Recorder, lockstep, rollout, timed

from aloe.chat import ChatFormat, options_of
from aloe.config import DialogueConfig, VllmModel
from aloe.dialogue.tree import TreeSeed
from aloe.engines import Completion, Engine, Request
from aloe.engines.vllm import (
    VllmEngine,
    completion_of,
    engine_options,
    sampling_params,
    single_tokens,
)

Runs = dict[str, list[dict[str, Any]]]
console = Console()

GPU_MODEL_TURNS = 10
"""As in the paper, where SmolLM2 on a CPU is measured on shorter trees."""

COLUMNS = {
    "tokens_per_s": "tok/s",
    "seconds": "s",
    "steps": "steps",
    "computed_prompt_tokens": "prompt",
    "output_tokens": "output",
    "calls": "calls",
    "driver_cpu_s": "driver s",
    "engine_cpu_s": "engine s",
}
"""Numbers of a run -> heads of the table: prompt tokens computed, CPU seconds of both processes."""


async def roll_out(engine: VllmEngine, trees: list[TreeSeed], config: DialogueConfig) -> Calls:
    """This project's rollout, from an empty cache."""
    await engine.forget_prefixes()
    recorder = Recorder(engine)
    speakers = dict.fromkeys(ROLES, recorder)
    await rollout(recorder, speakers, trees, config, 2 * engine.load().capacity)
    return recorder.calls


async def ceiling(engine: VllmEngine, recorded: Calls) -> Calls:
    """Recorded calls all at once, from an empty cache, each as long as it was."""
    await engine.forget_prefixes()

    async def again(request: Request, answer: Completion) -> tuple[Request, Completion]:
        ids = single_tokens("bench", engine.chat, request.choices)
        length = answer.completion_tokens
        params = sampling_params(request, length, ids)
        if not request.choices and not request.json_schema:
            # A grammar leads to the same end by itself, and masks what would go on after it.
            params.min_tokens, params.ignore_eos = length, True
        output = await engine.generate(engine.token_ids(request.messages), params)
        return request, completion_of("bench", output, ids)

    return await asyncio.gather(*(again(*call) for call in recorded))


async def measure_async(
    model: VllmModel, trees: list[TreeSeed], config: DialogueConfig, repeats: int
) -> tuple[Runs, Calls]:
    """Rollout and ceiling on one AsyncLLM; also the calls of the first rollout."""
    engine = VllmEngine("bench", model)
    await roll_out(engine, trees[:2], config)  # grammars, threads, allocator
    runs: Runs = {"rollout": [], "ceiling": []}
    recorded: Calls = []
    for repeat in range(repeats):
        # The first ceiling replays the first rollout.
        for name in rotated(runs, repeat):
            work = (
                ceiling(engine, recorded) if name == "ceiling" else roll_out(engine, trees, config)
            )
            run, calls = await timed(work, lambda: engine.stats.steps)
            runs[name].append(run)
            recorded = recorded or calls
    engine.close()
    return runs, recorded


async def profile(model: VllmModel, trees: list[TreeSeed], config: DialogueConfig) -> None:
    """Print what this process does during one rollout, by function."""
    engine = VllmEngine("bench", model)
    await roll_out(engine, trees[:2], config)
    profiler = cProfile.Profile()
    profiler.enable()
    run, _ = await timed(roll_out(engine, trees, config), lambda: engine.stats.steps)
    profiler.disable()
    engine.close()
    for order in ("cumulative", "tottime"):
        pstats.Stats(profiler).sort_stats(order).print_stats(40)
    console.print(run)


async def measure_lockstep(
    model: VllmModel, trees: list[TreeSeed], config: DialogueConfig, repeats: int
) -> list[dict[str, Any]]:
    from vllm import LLM

    llm: Any = LLM(**engine_options(model))
    chat_format = ChatFormat(llm.get_tokenizer(), options_of(model))
    counted, step = itertools.count(), llm.llm_engine.step
    done = 0

    def counting() -> Any:
        nonlocal done
        done = next(counted) + 1
        return step()

    llm.llm_engine.step = counting

    def chat(requests: list[Request]) -> list[Completion]:
        ids = [single_tokens("bench", chat_format, request.choices) for request in requests]
        outputs = llm.chat(
            [request.messages for request in requests],
            [sampling_params(r, r.max_tokens, i) for r, i in zip(requests, ids, strict=True)],
            use_tqdm=False,
        )
        return [completion_of("bench", output, i) for output, i in zip(outputs, ids, strict=True)]

    async def batch(requests: list[Request]) -> list[Completion]:
        return await asyncio.to_thread(chat, requests)

    def speakers(steps: Lockstep) -> Mapping[str, Engine]:
        return dict.fromkeys(ROLES, steps)

    await lockstep(batch, speakers, trees[:2], config)
    runs = []
    for _ in range(repeats):
        llm.reset_prefix_cache()
        run, _ = await timed(lockstep(batch, speakers, trees, config), lambda: done)
        runs.append(run)
    llm.llm_engine.engine_core.shutdown()
    return runs


def measure_sequential(path: str, calls: list[tuple[Request, Completion]]) -> dict[str, Any]:
    """One `generate` per call. Choices are one forward pass, JSON is free text of that length."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from aloe.engines.embedded import resolve_checkpoint

    folder = resolve_checkpoint(path)
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    dialogue_arguments(parser, trees=64, kv_gib=6)
    parser.add_argument("--prefix-cache", choices=["on", "off", "both"], default="both")
    parser.add_argument("--sequential-trees", type=int, default=1, help="0 leaves it out")
    parser.add_argument("--profile", action="store_true", help="only this: who takes the time")
    arguments = parser.parse_args()

    config = dialogue_config(arguments)
    trees = tree_seeds(arguments.trees)
    model = VllmModel(
        backend="vllm", path=arguments.model, max_num_seqs=64, kv_cache_gib=arguments.kv_gib
    )
    if arguments.profile:
        asyncio.run(profile(model, trees, config))
        return
    runs: Runs = measure_gpu_model(trees, GPU_MODEL_TURNS, arguments.repeats)
    caches = {"on": [True], "off": [False], "both": [True, False]}[arguments.prefix_cache]
    for cached in caches:
        model = model.model_copy(update={"enable_prefix_caching": cached})
        label = "" if cached else ", no cache"
        found, recorded = asyncio.run(measure_async(model, trees, config, arguments.repeats))
        runs |= {f"{name}{label}": part for name, part in found.items()}
        locked = asyncio.run(measure_lockstep(model, trees, config, arguments.repeats))
        runs[f"lockstep{label}"] = locked
        if arguments.sequential_trees and "sequential" not in runs:
            first = {tree.tree_id for tree in trees[: arguments.sequential_trees]}
            calls = [call for call in recorded if call[0].conversation in first]
            runs["sequential"] = [measure_sequential(arguments.model, calls)]
    ratios = show(runs)
    write_json(arguments, ratios, runs)


def show(runs: Runs) -> dict[str, float]:
    """Print the table; returns the ratios."""
    table = Table("variant", *COLUMNS.values())
    for name, part in runs.items():
        known = [key for key in COLUMNS if key in part[0]]
        table.add_row(
            name,
            *(f"{median(part, key):,.{0 if median(part, key) >= 1000 else 1}f}" for key in known),
        )
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
