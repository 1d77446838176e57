"""Where the seconds of a PPO update go, and per-turn against summed credit.

    python benchmarks/ppo_step.py runs/rl_small --updates 6 --seeds 0 1 2 --json FILE

Takes a finished run with verifiable preferences. For each seed PPO starts twice from the run's
checkpoint (``training.ppo.start_from``) and makes as many updates: each turn's reward on that
turn's last token (``turn``), or their sum on the episode's last (``episode``), where OpenRLHF puts
it. The reward is that of dialogues with held-out personas, the same for both.

``--folder FOLDER`` keeps the trainings; a benchmark that was stopped goes on from there.

``--at-once N`` trains N times side by side, each on cores of its own; the seconds are then those
of a machine that others use too. ``--start-from base`` needs no training before. Options it does
not know, such as ``--training.ppo.batch_size 8``, go to ``aloe train ppo``.

Of the runs with credit by turn: medians of the phases of an update, and ``rollout_busy``, the share
of it in which the rollout engines have something to compute. Reward model and reference answer
while ``experience`` is made; what is in no phase is the check of the sync.
"""

from __future__ import annotations

import argparse
import os
import queue
import shutil
import statistics
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from measuring import write_json
from rich.console import Console
from rich.table import Table
from scipy import stats

from aloe.schema import METRICS
from aloe.storage import Store

PHASES = ("rollout", "experience", "reward", "reference", "update", "sync")
CREDITS = ("turn", "episode")
READ = ("preferences", "training/sft", "training/reward", "training/dpo")
"""What PPO may start from."""

Numbers = dict[tuple[str, str, int], float]


def train(
    arguments: argparse.Namespace, folder: Path, seed: int, credit: str, cores: list[int]
) -> Numbers:
    """Numbers of one training by split, name and update."""
    source: Path = arguments.run
    for name in READ:
        if (source / name).exists():
            shutil.copytree(source / name, folder / name, dirs_exist_ok=True)
    values = yaml.safe_load((source / "config.yaml").read_text())
    values["run"] |= {"dir": str(folder), "seed": seed, "resume": "if-same"}
    values["training"]["ppo"] |= {
        "credit": credit,
        "updates": arguments.updates,
        "eval_steps": None,
        "eval_dialogues": 40,
        "checkpoint_steps": 2 if arguments.folder else None,
    }
    if arguments.start_from:
        values["training"]["ppo"]["start_from"] = arguments.start_from
    file = folder / "benchmark.yaml"
    file.write_text(yaml.safe_dump(values))
    # taskset: a thread's own affinity would go with it, and this one starts others after.
    pinned = ["taskset", "--cpu-list", ",".join(map(str, cores))]
    command = [*pinned, sys.executable, "-m", "aloe", "train", "ppo", str(file), *arguments.options]
    subprocess.run(command, check=True)
    rows = Store(str(folder)).read_table("training/ppo/metrics.parquet", METRICS).to_pylist()
    return {(row["split"], row["name"], row["step"]): row["value"] for row in rows}


def interval(values: list[float]) -> tuple[float, float, float]:
    """Mean and 95% interval by Student's t; no width with one value."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return mean, mean, mean
    error = statistics.stdev(values) / len(values) ** 0.5
    low, high = stats.t.interval(0.95, len(values) - 1, mean, error or 1e-12)
    return mean, float(low), float(high)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path, help="folder of a finished run")
    parser.add_argument("--updates", type=int, default=6)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--start-from", choices=["base", "sft", "dpo"], help="as the run's if unset"
    )
    parser.add_argument("--folder", type=Path, help="where trainings are kept; else nowhere")
    parser.add_argument("--at-once", type=int, default=1, help="trainings side by side")
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    arguments, options = parser.parse_known_args()
    arguments.options = options
    console = Console()
    steps = range(1, arguments.updates + 1)
    cores = sorted(os.sched_getaffinity(0))
    shares: queue.SimpleQueue[list[int]] = queue.SimpleQueue()
    for share in np.array_split(cores, arguments.at_once):
        shares.put(share.tolist())

    def one(place: tuple[int, str]) -> Numbers:
        seed, credit = place
        share = shares.get()
        with ExitStack() as stack:
            root = arguments.folder or Path(
                stack.enter_context(tempfile.TemporaryDirectory(prefix="aloe-ppo-"))
            )
            found = train(arguments, root / f"{seed}-{credit}", seed, credit, share)
        shares.put(share)
        return found

    places = list(product(arguments.seeds, CREDITS))
    with ThreadPoolExecutor(arguments.at_once) as threads:
        trained = dict(zip(places, threads.map(one, places), strict=True))
    before: dict[str, list[float]] = {credit: [] for credit in CREDITS}
    after: dict[str, list[float]] = {credit: [] for credit in CREDITS}
    phases: dict[str, list[float]] = {name: [] for name in (*PHASES, "all")}
    busy: list[float] = []
    for (seed, credit), found in trained.items():
        before[credit].append(found["validation", "reward", 0])
        after[credit].append(found["validation", "reward", arguments.updates])
        console.print(
            f"seed {seed}, credit by {credit}: held-out reward "
            f"{before[credit][-1]:.3f} -> {after[credit][-1]:.3f}"
        )
        if credit == "turn":
            busy += [found["train", "rollout_busy", step] for step in steps]
            for name, values in phases.items():
                key = "seconds" if name == "all" else f"seconds_{name}"
                values += [found.get(("train", key, step), float("nan")) for step in steps]
    numbers: dict[str, Any] = {"rollout_busy": float(np.median(busy))}
    table = Table(title="One update", title_justify="left")
    table.add_column("phase")
    table.add_column("s", justify="right")
    for name, values in phases.items():
        if not np.isnan(values).all():
            numbers[f"seconds_{name}"] = float(np.nanmedian(values))
            table.add_row(name, f"{numbers[f'seconds_{name}']:.2f}")
    table.add_row("rollout engines busy", f"{numbers['rollout_busy']:.0%}")
    console.print(table)
    gains = {
        credit: [b - a for a, b in zip(before[credit], after[credit], strict=True)]
        for credit in CREDITS
    }
    gains["turn - episode"] = [
        one - other for one, other in zip(gains["turn"], gains["episode"], strict=True)
    ]
    for name, values in gains.items():
        mean, low, high = interval(values)
        numbers[f"gain {name}"] = {"mean": mean, "low": low, "high": high}
        console.print(f"gain in held-out reward, {name}: {mean:+.3f} [{low:+.3f}, {high:+.3f}]")
    write_json(arguments, numbers, {"before": before, "after": after, "phases": phases})


if __name__ == "__main__":
    main()
