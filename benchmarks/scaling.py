"""Trees per second of a rollout on 1 to 64 actors, and the driver's memory at 10^5 personas.

    python benchmarks/scaling.py --actors 1 8 64 --personas 1000 100000 --json FILE

The stage is the real one, over real Ray; its speakers need no model (`scripted`) but take the time
of one. Every size has the same trees per actor, so the ideal time is the same for all of them. Each
rollout runs in a process of its own that starts Ray anew.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import ray
import ray.data
from measuring import ROLES, median, rotated, write_json
from rich.console import Console
from rich.table import Table

from aloe.config import Config
from aloe.dialogue import rollout_dialogues
from aloe.schema import PERSONAS
from aloe.storage import Manifest, Store

_ACTOR = "ray::MapWorker"
"""How the name of a rollout actor's process begins; Ray adds more once the actor is ready."""
_STEADY = 0.9
"""Share of the parts up to whose end a rollout counts as steady."""

Run = dict[str, Any]


def prepare(
    folder: str, personas: int, model: dict[str, Any], dialogue: dict[str, Any]
) -> tuple[Config, Store]:
    """A run folder whose persona stage is done.

    Args:
        personas: how many; each gets a tree.
        model: settings of the scripted speaker of all roles.
        dialogue: the configuration's section.
    """
    pool = {"size": 1}
    config = Config.model_validate(
        {
            "run": {"dir": folder},
            "models": {"script": {"backend": "scripted", **model}},
            "roles": dict.fromkeys(ROLES, "script"),
            "personas": {"writer": "script", "profiles": pool, "personalities": pool},
            "dialogue": dialogue,
            "training": {"base": "embedded://tiny"},
        }
    )
    store = Store(folder)
    rows = (
        {
            "persona_id": f"p{number}",
            "profile": f"Life number {number}.",
            "personality": "Calm.",
            "split": "train",
        }
        for number in range(personas)
    )
    store.write_table("personas/personas.parquet", rows, PERSONAS)
    Manifest("personas", {}, "fixed", complete=True).save(store)
    return config, store


def alone(work: Callable[..., Any], *arguments: Any) -> Any:
    """What ``work`` returns, in a fresh process that ends after it."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        return pool.submit(work, *arguments).result()


def actor_processes() -> list[psutil.Process]:
    """Rollout actors of the Ray that this process started."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if "".join(process.cmdline()[:1]).startswith(_ACTOR):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
    return found


class Watch(threading.Thread):
    """Notes when the first part was begun, and what the actors take while they work."""

    def __init__(self, folder: str) -> None:
        super().__init__(daemon=True)
        self.begun = 0.0
        """Wall clock: all actors are up and the first of them has a part."""
        self.actor_mib = 0.0
        """Most private memory of an actor, averaged over the actors."""
        self.actor_cpu_s: dict[int, float] = {}
        self._open, self._ended = Path(folder, "dialogue", "open"), threading.Event()

    def run(self) -> None:
        while not self._open.exists():
            if self._ended.wait(0.05):
                return
        self.begun = time.time()
        while not self._ended.wait(5):
            self._look()

    def stop(self) -> None:
        self._ended.set()
        self.join()

    def _look(self) -> None:
        private = []
        for process in actor_processes():
            try:
                times, memory = process.cpu_times(), process.memory_info()
            except psutil.NoSuchProcess:
                continue
            self.actor_cpu_s[process.pid] = times.user + times.system
            private.append(memory.rss - memory.shared)
        if private:
            self.actor_mib = max(self.actor_mib, sum(private) / len(private) / 2**20)


def roll_out_on(folder: str, actors: int, arguments: argparse.Namespace) -> Run:
    """One rollout on that many actors, timed from the first part's start to the last one's end."""
    trees = actors * arguments.trees_per_actor
    pool = {"min": actors, "max": actors, "num_cpus": 0.01, "in_flight": arguments.in_flight}
    model = {
        "step_s": arguments.step_s,
        "step_s_per_sequence": arguments.step_s / 20,
        "max_num_seqs": 64,
    }
    config, store = prepare(folder, trees, model, {"turns": arguments.turns, "actors": pool})
    # No part begins before all actors are there: starting them is not what is measured.
    ray.data.DataContext.get_current().wait_for_min_actors_s = 600
    watch = Watch(folder)
    watch.start()
    started, cpu = time.time(), os.times()
    rollout_dialogues(config, store)
    driver_cpu_s = os.times().user + os.times().system - cpu.user - cpu.system
    watch.stop()
    ends = sorted(path.stat().st_mtime for path in Path(folder, "dialogue", "parts").iterdir())
    ray.shutdown()
    # At the end actors run out of work, which a long rollout hardly feels.
    most = max(int(_STEADY * len(ends)), 1)
    steady_s = ends[most - 1] - watch.begun
    return {
        "actors": actors,
        "trees": trees,
        "parts": len(ends),
        "start_s": watch.begun - started,
        "seconds": ends[-1] - watch.begun,
        "steady_s": steady_s,
        "trees_per_s": trees / (ends[-1] - watch.begun),
        "steady_trees_per_s": trees * most / len(ends) / steady_s,
        "actor_mib": watch.actor_mib,
        "actor_cpu_s": sum(watch.actor_cpu_s.values()),
        "driver_cpu_s": driver_cpu_s,
    }


def remember(folder: str, personas: int, arguments: argparse.Namespace) -> Run:
    """The most memory that the driver of a rollout of that many trees has at once."""
    actors = arguments.memory_actors
    pool = {"min": actors, "max": actors, "num_cpus": 1 / actors, "in_flight": 64}
    # Prepared by a process of its own: writing the personas must not count.
    config = alone(prepare, folder, personas, {}, {"turns": 1, "actors": pool})[0]
    started = time.monotonic()
    rollout_dialogues(config, Store(folder))
    seconds = time.monotonic() - started
    ray.shutdown()
    return {"personas": personas, "seconds": seconds, "driver_peak_mib": own_peak_mib()}


def own_peak_mib() -> float:
    """Most resident memory that this process has had.

    ``getrusage`` would count that of the process it was forked from.
    """
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise OSError("/proc/self/status has no line VmHWM")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--actors", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--trees-per-actor", type=int, default=32)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--in-flight", type=int, default=8, help="open trees of an actor")
    parser.add_argument("--step-s", type=float, default=0.08, help="time of one token")
    parser.add_argument("--personas", type=int, nargs="*", default=[1000, 100_000])
    parser.add_argument("--memory-actors", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=2, help="of each number of actors")
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    arguments = parser.parse_args()

    runs: dict[int, list[Run]] = {actors: [] for actors in arguments.actors}
    with tempfile.TemporaryDirectory() as folder:
        for repeat in range(arguments.repeats):
            for actors in rotated(runs, repeat):
                place = f"{folder}/actors-{actors}-{repeat}"
                runs[actors].append(alone(roll_out_on, place, actors, arguments))
        memory = [
            alone(remember, f"{folder}/personas-{personas}", personas, arguments)
            for personas in arguments.personas
        ]

    scaling = [{key: median(part, key) for key in part[0]} for part in runs.values()]
    first = scaling[0]
    for run in scaling:
        more = run["actors"] / first["actors"]
        for kind in ("", "steady_"):
            speed = run[f"{kind}trees_per_s"] / first[f"{kind}trees_per_s"]
            run[f"{kind}efficiency"] = speed / more
    ratios = {
        "linear": scaling[-1]["steady_efficiency"],
        "linear_with_end": scaling[-1]["efficiency"],
    }
    if len(memory) > 1:
        ratios["driver_memory"] = memory[-1]["driver_peak_mib"] / memory[0]["driver_peak_mib"]

    console = Console()
    shown = ("actors", "trees", "start_s", "seconds", "steady_s", "efficiency", "steady_efficiency")
    for rows, keys in ((scaling, shown), (memory, ("personas", "seconds", "driver_peak_mib"))):
        if rows:
            table = Table(*(key.replace("_", " ") for key in keys))
            for run in rows:
                table.add_row(*(f"{run[key]:,.5g}" for key in keys))
            console.print(table)
    console.print(", ".join(f"{name} {ratio:.3f}" for name, ratio in ratios.items()))
    write_json(arguments, ratios, {"scaling": list(runs.values()), "memory": memory})


if __name__ == "__main__":
    main()
