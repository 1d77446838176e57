"""How long starts take: engines, trainers, PPO's team, and a whole run; now and before.

    git worktree add /tmp/before bbe04d7
    python benchmarks/startup.py --old /tmp/before --demo --json FILE

``--old`` is a checkout of an earlier commit; its code runs in the same environment, in turn with
this one's. bbe04d7 is the last one in which an engine's caller imported vLLM and spawned a core
that imported it again, and in which each training process imported for itself.

Engines are started as a run starts them, in Ray actors: the first one of a run (Ray's own start
included), a second one with other options, and the one that replaces it when its core is killed. A
tiny run is split by stage into start and work; in it SFT and DPO have two ranks, and PPO's team is
policy (two ranks), reference and rollout engine. ``--demo`` also runs configs/demo.yaml, for the
share of starts in it.

CPU seconds are those of the whole machine: nothing else should run.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml
from measuring import median, rotated, write_json
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parent.parent
TINY = {"backend": "vllm", "path": "embedded://tiny", "max_model_len": 1024, "max_num_seqs": 8}

WATCH = """
import os, sys, time
class Watch:
    # Sees every import that begins; tells when, at most every 50 ms, once vLLM's has begun.
    told, seen = 0.0, False
    def find_spec(self, name, path=None, target=None):
        Watch.seen = Watch.seen or name == "vllm"
        now = time.time()
        if Watch.seen and now - Watch.told > 0.05:
            Watch.told = now
            with open(os.path.join(os.environ["IMPORTS_TOLD"], str(os.getpid())), "a") as file:
                file.write(f"{now}\\n")
sys.meta_path.insert(0, Watch())
"""
"""sitecustomize of the processes that are measured."""

ENGINES = """
import asyncio, json, sys, time
from contextlib import ExitStack
import psutil
from aloe.config import RayConfig, StorageConfig, VllmModel
from aloe.engines import Request
from aloe.engines.pool import PooledEngine, open_pools
from aloe.runtime import connect

first = VllmModel.model_validate_json(sys.argv[1] )
second = first.model_copy(update={"max_model_len": 512})
try:
    from aloe.engines.start import imports_of
    ahead = [imports_of([first])]
except ImportError:  # before there was a fork server
    ahead = []

def cpu():
    times = psutil.cpu_times()
    return times.user + times.system + times.nice

def told(began, spent):
    numbers = {"from": began, "seconds": time.time() - began, "cpu_s": cpu() - spent}
    print(json.dumps(numbers), flush=True)

def cores():
    every = psutil.Process().children(recursive=True)
    return {child.pid: child for child in every if "EngineCore" in " ".join(child.cmdline())}

with ExitStack() as stack:
    began, spent = time.time(), cpu()
    connect(RayConfig(num_cpus=4, logical_gpus=4), *ahead)
    stack.enter_context(open_pools({"first": first}, StorageConfig()))
    told(began, spent)
    there = cores()
    began, spent = time.time(), cpu()
    pools = stack.enter_context(open_pools({"second": second}, StorageConfig()))
    told(began, spent)
    ((_, core),) = [item for item in cores().items() if item[0] not in there]
    core.kill()
    began, spent = time.time(), cpu()
    request = Request([{"role": "user", "content": "Hello"}], max_tokens=1)
    asyncio.run(PooledEngine("second", pools["second"]).complete(request))
    told(began, spent)
"""


def one_import() -> float:
    """Seconds that importing what an engine needs takes, with nothing beside it."""
    code = (
        "import importlib, time\nfrom aloe.engines.vllm_core import MODULES\nstart = time.time()\n"
        "for name in MODULES: importlib.import_module(name)\nprint(time.time() - start)"
    )
    quiet = os.environ | {"VLLM_LOGGING_LEVEL": "ERROR", "HF_HUB_OFFLINE": "1"}
    told = subprocess.run(
        [sys.executable, "-c", code], env=quiet, capture_output=True, text=True, check=True
    )
    return float(told.stdout.split()[-1])


def importing_s(told: Path, since: float, until: float) -> float:
    """Seconds of a span in which at least one process was importing vLLM."""
    spans = []
    for file in told.iterdir():
        times = [float(line) for line in file.read_text().split()]
        times = [t for t in times if since <= t <= until]
        for before, after in pairwise(times):
            if after - before < 1.0:  # a longer pause is no import of one module
                spans.append((before, after))
    total, end = 0.0, 0.0
    for start, stop in sorted(spans):
        total += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return total


def engine_starts(code: Path, hooks: Path) -> dict[str, Any]:
    """A first engine, a second one, and the one that replaces it when its core is killed."""
    with tempfile.TemporaryDirectory(prefix="aloe-startup-") as folder:
        told = Path(folder)
        environment = os.environ | {
            "IMPORTS_TOLD": folder,
            "PYTHONPATH": f"{hooks}{os.pathsep}{code}",
            "HF_HUB_OFFLINE": "1",
        }
        done = subprocess.run(
            [sys.executable, "-c", ENGINES, json.dumps(TINY)],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            cwd="/",
        )
        if done.returncode:
            raise SystemExit(done.stderr)
        lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
        found = dict(zip(("first", "second", "after_kill"), map(json.loads, lines), strict=True))
        for start in found.values():
            until = start["from"] + start["seconds"]
            start["importing_s"] = importing_s(told, start["from"], until)
    return found


def tiny_run(folder: Path) -> dict[str, Any]:
    """Every stage with real processes, and next to no work in them."""
    step = {"batch_size": 4, "max_len": 512, "learning_rate": 1e-3, "zero_stage": 0}
    ppo = {"updates": 1, "batch_size": 4, "samples": 2, "turns": 1, "eval_dialogues": 2}
    sampling = {"temperature": 1.0, "top_p": 1.0, "max_tokens": 16}
    return {
        "run": {"dir": str(folder), "seed": 3},
        "ray": {"num_cpus": 8, "logical_gpus": 8},
        "models": {"tiny": TINY, "script": {"backend": "scripted"}},
        "roles": {
            **dict.fromkeys(("inducer", "judge"), "script"),
            **dict.fromkeys(("user", "guided", "unguided"), "tiny"),
        },
        "personas": {
            "writer": "script",
            "profiles": {"size": 26},
            "personalities": {"size": 26},
            "asked": 1,
            "requests_per_round": 4,
            "max_rounds": 2,
            "heldout_profiles": 2,
            "heldout_personalities": 2,
            "personalities_per_profile": 1,
            "max_personas": 12,
            "verifiable": {"count": 2},
        },
        "dialogue": {"turns": 2, "tries": 8, "sampling": {"max_tokens": 16}},
        "preferences": {"validation_share": 0.25},
        "training": {
            "base": "embedded://tiny",
            "sft": step,
            "dpo": step | {"beta": 0.1},
            "ppo": {**step, **ppo, "sampling": sampling, "rewards": {"verifiable": 1}},
        },
        "placements": {"actor": {"devices": 2}},
        "evaluation": {
            "policies": {"base": "base", "sft": "sft", "dpo": "dpo"},
            "turns": 2,
            "tries": 8,
            "bootstrap_samples": 100,
            "sampling": {"max_tokens": 16},
        },
    }


def run_stages(config: Path, code: Path, extra: list[str]) -> dict[str, Any]:
    """Seconds of each stage of a run, and of its start as far as the run tells it."""
    command = [sys.executable, "-m", "aloe", "run", str(config), "--json", *extra]
    began = time.time()
    at, starting, stages = began, began, {}
    with subprocess.Popen(
        command,
        env=os.environ | {"PYTHONPATH": str(code)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd="/",
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            event, now = json.loads(line), time.time()
            label = str(event.get("label", ""))
            if starting == at and (event.get("phase") == "ready" or ": " in label):
                starting = now  # the first engine is there, or the first phase of a training begins
            else:
                starting += event.get("waited_s", 0.0)  # for the next policy's engine
            if "wall_seconds" in event:
                stages[event["stage"]] = {
                    "seconds": now - at,
                    "start_s": max(0.0, starting - at),
                }
                at = starting = now
        if process.wait():
            raise SystemExit(f"{' '.join(command)}: exit code {process.returncode}")
    return {"seconds": time.time() - began, "stages": stages}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--old", type=Path, help="checkout of an earlier commit, for the runs")
    parser.add_argument("--demo", action="store_true", help="run configs/demo.yaml as well")
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    arguments = parser.parse_args()
    console = Console()

    codes = {"now": ROOT} | ({"old": arguments.old.resolve()} if arguments.old else {})
    starts: dict[str, list[dict[str, Any]]] = {way: [] for way in codes}
    with tempfile.TemporaryDirectory(prefix="aloe-hooks-") as folder:
        hooks = Path(folder)
        (hooks / "sitecustomize.py").write_text(WATCH)
        single = min(one_import() for _ in range(arguments.repeats))
        for repeat in range(arguments.repeats):
            for way in rotated(codes, repeat):
                starts[way].append(engine_starts(codes[way], hooks))

    def of(way: str, which: str, key: str) -> float:
        return median([run[which] for run in starts[way]], key)

    table = Table(title=f"Engines; one import of vLLM takes {single:.1f} s")
    for column in (
        "start",
        *(f"{way}: {what}" for way in codes for what in ("s", "CPU s", "importing s")),
    ):
        table.add_column(column, justify="right")
    for which in ("first", "second", "after_kill"):
        keys = ("seconds", "cpu_s", "importing_s")
        table.add_row(which, *(f"{of(way, which, key):.1f}" for way in codes for key in keys))
    console.print(table)
    ratios = {"engine_imports": of("now", "first", "importing_s") / single}
    if "old" in codes:
        first = of("old", "first", "seconds")
        ratios |= {
            "engine_imports_old": of("old", "first", "importing_s") / single,
            "first_engine": of("now", "first", "seconds") / first,
            "second_engine": of("now", "second", "seconds") / of("old", "second", "seconds"),
            "after_kill": of("now", "after_kill", "seconds") / of("old", "after_kill", "seconds"),
        }

    whole: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="aloe-run-") as folder:
        for way, code in codes.items():
            config = Path(folder, f"{way}.yaml")
            config.write_text(yaml.safe_dump(tiny_run(Path(folder, way))))
            whole[way] = run_stages(config, code, [])
        if arguments.demo:
            target = ["--run.dir", str(Path(folder, "demo"))]
            whole["demo"] = run_stages(ROOT / "configs" / "demo.yaml", ROOT, target)
    table = Table(
        title="Runs: seconds of a stage, of which until its engines or trainers are there"
    )
    for column in ("stage", *(f"{way}" for way in whole)):
        table.add_column(column, justify="right")
    for stage in whole["now"]["stages"]:
        found = [run["stages"].get(stage) for run in whole.values()]
        table.add_row(
            stage, *(f"{s['seconds']:.0f} ({s['start_s']:.0f})" if s else "" for s in found)
        )
    table.add_row("all", *(f"{run['seconds']:.0f}" for run in whole.values()))
    console.print(table)
    if "old" in whole:
        ratios["tiny_run"] = whole["now"]["seconds"] / whole["old"]["seconds"]
        for stage, key in (("training/sft", "trainer_of_2_ranks"), ("training/ppo", "ppo_team")):
            now, old = (whole[way]["stages"][stage]["start_s"] for way in ("now", "old"))
            ratios[key] = now / old
    for name in ("now", "demo"):
        if name in whole:
            start = sum(stage["start_s"] for stage in whole[name]["stages"].values())
            key = "start_share" if name == "demo" else "tiny_start_share"
            ratios[key] = start / whole[name]["seconds"]
    for name, value in ratios.items():
        console.print(f"{name}: {value:.3f}")
    write_json(arguments, ratios, {"one_import_s": single, "engines": starts, "runs": whole})


if __name__ == "__main__":
    main()
