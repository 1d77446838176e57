"""A rollout whose actors are killed all the time, against an undisturbed one.

    python benchmarks/recovery.py --trees 96 --every 4 --json FILE

Both grow the same trees over real Ray with speakers that need no model (`scripted`) but take the
time of one. In the disturbed one SIGKILL ends an actor's process every few seconds; Ray starts it
again, and its open trees go on from their last finished turn.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import ray
import ray.data
from measuring import median, rotated, write_json
from rich.console import Console
from rich.table import Table
from scaling import actor_processes, alone, prepare

from aloe.dialogue import rollout_dialogues
from aloe.schema import NODES
from aloe.storage import Store

Run = dict[str, Any]


class Killer(threading.Thread):
    """Ends one actor's process every few seconds, once the rollout has begun."""

    def __init__(self, store: Store, every_s: float) -> None:
        super().__init__(daemon=True)
        self.kills = 0
        self._store, self._every_s = store, every_s
        self._random, self._ended = random.Random(0), threading.Event()

    def run(self) -> None:
        while not self._ended.wait(self._every_s):
            victims = actor_processes() if self._store.exists("dialogue", "open") else []
            if not victims:
                continue
            try:
                self._random.choice(victims).kill()
            except psutil.NoSuchProcess:
                continue
            self.kills += 1

    def stop(self) -> None:
        self._ended.set()
        self.join()


class Watch(threading.Thread):
    """Looks ten times a second which parts are begun again, and how many actors are there."""

    def __init__(self, folder: str) -> None:
        super().__init__(daemon=True)
        self.begun = 0.0
        self.alive: list[int] = []
        """Actors that had begun, look by look."""
        self._open, self._ended = Path(folder, "dialogue", "open"), threading.Event()
        self._starts: dict[str, set[int]] = {}

    def run(self) -> None:
        while not self._ended.wait(0.1):
            for log in self._open.glob("*/starts.json"):
                self.begun = self.begun or time.time()
                try:
                    self._starts.setdefault(log.parent.name, set()).add(log.stat().st_mtime_ns)
                except FileNotFoundError:
                    continue  # the part is final
            if self.begun:
                self.alive.append(len(actor_processes()))

    def restarts(self) -> int:
        """Starts of a part beyond its first one."""
        return sum(len(starts) - 1 for starts in self._starts.values())

    def stop(self) -> None:
        self._ended.set()
        self.join()


def roll_out(folder: str, every_s: float, arguments: argparse.Namespace) -> Run:
    """One rollout, in which an actor dies each ``every_s`` seconds; 0: none does."""
    actors = arguments.actors
    pool = {"min": actors, "max": actors, "num_cpus": 0.1, "in_flight": arguments.in_flight}
    config, store = prepare(
        folder,
        arguments.trees,
        {"latency_s": arguments.latency_s},
        {"turns": arguments.turns, "actors": pool},
    )
    ray.data.DataContext.get_current().wait_for_min_actors_s = 600
    watch = Watch(folder)
    watch.start()
    killer = Killer(store, every_s)
    if every_s:
        killer.start()
    manifest = rollout_dialogues(config, store)
    if every_s:
        killer.stop()
    watch.stop()
    ends = sorted(path.stat().st_mtime for path in Path(folder, "dialogue", "parts").iterdir())
    ray.shutdown()
    return {
        "seconds": ends[-1] - watch.begun,
        "half_s": ends[len(ends) // 2] - watch.begun,
        "alive": statistics.fmean(watch.alive) / actors,
        "kills": killer.kills,
        "restarted_parts": watch.restarts(),
        "trees": manifest.counts["trees"],
        "nodes": manifest.counts["nodes"],
        "failed_trees": manifest.counts["failed_trees"],
        "calls": manifest.usage.calls,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trees", type=int, default=96)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--actors", type=int, default=3)
    parser.add_argument("--in-flight", type=int, default=8, help="open trees of an actor")
    parser.add_argument("--latency-s", type=float, default=0.5, help="time of one call")
    parser.add_argument("--every", type=float, default=4.0, help="seconds between two kills")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    arguments = parser.parse_args()

    every = {"undisturbed": 0.0, "disturbed": arguments.every}
    runs: dict[str, list[Run]] = {name: [] for name in every}
    same = True
    with tempfile.TemporaryDirectory() as folder:
        for repeat in range(arguments.repeats):
            tables = {}
            for name in rotated(every, repeat):
                place = f"{folder}/{name}-{repeat}"
                runs[name].append(alone(roll_out, place, every[name], arguments))
                tables[name] = Store(place).read_table("dialogue/nodes", NODES).sort_by("node_id")
            same = same and tables["disturbed"].equals(tables["undisturbed"])
    ratios = {
        "undisturbed": median(runs["disturbed"], "seconds")
        / median(runs["undisturbed"], "seconds"),
        "half": median(runs["disturbed"], "half_s") / median(runs["undisturbed"], "half_s"),
        "same_rows": float(same),
    }

    keys = ("seconds", "half_s", "kills", "restarted_parts", "alive", "trees", "failed_trees")
    table = Table("rollout", *(key.replace("_", " ") for key in keys))
    for name, part in runs.items():
        table.add_row(name, *(f"{median(part, key):.4g}" for key in keys))
    console = Console()
    console.print(table)
    console.print(
        f"disturbed / undisturbed {ratios['undisturbed']:.3f}, half of the parts "
        f"{ratios['half']:.3f}, node rows {'the same' if same else 'DIFFER'}"
    )
    write_json(arguments, ratios, runs)


if __name__ == "__main__":
    main()
