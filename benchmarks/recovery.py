"""A rollout whose actors are killed all the time, against an undisturbed one.

    python benchmarks/recovery.py --trees 96 --every 4 --json FILE

Both grow the same trees over real Ray with speakers that need no model (`scripted`) but take the
time of one. In the disturbed one SIGKILL ends an actor's process every few seconds; Ray starts it
again, and its open trees go on from their last finished turn.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import ray
import ray.data
from measuring import write_json
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


class Redone(threading.Thread):
    """Counts the starts of parts that had been begun before, as far as a look each second sees."""

    def __init__(self, folder: str) -> None:
        super().__init__(daemon=True)
        self.begun = 0.0
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

    def stop(self) -> int:
        """Starts of a part beyond its first one."""
        self._ended.set()
        self.join()
        return sum(len(starts) - 1 for starts in self._starts.values())


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
    redone = Redone(folder)
    redone.start()
    killer = Killer(store, every_s)
    if every_s:
        killer.start()
    manifest = rollout_dialogues(config, store)
    if every_s:
        killer.stop()
    restarts = redone.stop()
    ended = max(path.stat().st_mtime for path in Path(folder, "dialogue", "parts").iterdir())
    ray.shutdown()
    return {
        "seconds": ended - redone.begun,
        "kills": killer.kills,
        "restarted_parts": restarts,
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
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    arguments = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        runs: dict[str, Run] = {}
        tables = {}
        for name, every_s in (("undisturbed", 0.0), ("disturbed", arguments.every)):
            runs[name] = alone(roll_out, f"{folder}/{name}", every_s, arguments)
            nodes = Store(f"{folder}/{name}").read_table("dialogue/nodes", NODES)
            tables[name] = nodes.sort_by("node_id")
    same = tables["disturbed"].equals(tables["undisturbed"])
    ratios = {
        "undisturbed": runs["disturbed"]["seconds"] / runs["undisturbed"]["seconds"],
        "same_rows": float(same),
    }

    keys = ("seconds", "kills", "restarted_parts", "trees", "failed_trees")
    table = Table("rollout", *(key.replace("_", " ") for key in keys))
    for name, run in runs.items():
        table.add_row(name, *(f"{run[key]:.4g}" for key in keys))
    console = Console()
    console.print(table)
    console.print(
        f"disturbed / undisturbed {ratios['undisturbed']:.3f}, "
        f"node rows {'the same' if same else 'DIFFER'}"
    )
    write_json(arguments, ratios, runs)


if __name__ == "__main__":
    main()
