"""Loss curve of a training that is killed with SIGKILL and resumed, over an undisturbed one.

    python benchmarks/resume.py runs/demo --kind dpo --epochs 4 --json FILE

Takes the preferences of a finished run. Both trainings start from its base model; of one, all ranks
are killed when a state of at least ``--kill-after`` steps is kept, and the same command goes on.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import yaml
from measuring import write_json
from rich.console import Console

from aloe.schema import METRICS
from aloe.storage import Store

WORKERS = {"sft": "SftWorker", "reward": "RewardWorker", "dpo": "DpoWorker"}


def curve(folder: Path, kind: str) -> list[float]:
    """Loss of each optimizer step."""
    table = Store(str(folder)).read_table(f"training/{kind}/metrics.parquet", METRICS)
    rows = [r for r in table.to_pylist() if (r["split"], r["name"]) == ("train", "loss")]
    return [row["value"] for row in sorted(rows, key=lambda row: row["step"])]


def start(arguments: argparse.Namespace, folder: Path) -> subprocess.Popen[bytes]:
    """Begin the training, or go on with it."""
    source = Path(arguments.run)
    values = yaml.safe_load((source / "config.yaml").read_text())
    stage = {**(values["training"].get(arguments.kind) or {}), "epochs": arguments.epochs}
    stage["checkpoint_steps"] = arguments.checkpoint_steps
    if arguments.kind != "sft":
        stage["start_from"] = "base"
    values["training"][arguments.kind] = stage
    if not folder.exists():
        shutil.copytree(source / "preferences", folder / "preferences")
    values["run"]["dir"] = str(folder)
    file = folder / "benchmark.yaml"
    file.write_text(yaml.safe_dump(values))
    command = [sys.executable, "-m", "aloe", "train", arguments.kind, str(file)]
    return subprocess.Popen(command, stderr=subprocess.DEVNULL)


def kill_in_the_middle(arguments: argparse.Namespace, folder: Path) -> int:
    """Run until a state is kept, kill the ranks; the state's number of steps."""
    process = start(arguments, folder)
    store = Store(str(folder))
    while process.poll() is None:
        names = store.names(f"training/{arguments.kind}/state")
        kept = [int(name.split(".")[0]) for name in names if name.endswith(".json")]
        if kept and kept[-1] >= arguments.kill_after:
            for child in psutil.Process(process.pid).children(recursive=True):
                if WORKERS[arguments.kind] in " ".join(child.cmdline()):
                    child.kill()
            process.wait()
            return kept[-1]
        time.sleep(0.05)
    raise SystemExit("the training ended before it could be killed: more --epochs")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("run", help="folder of a finished run")
    parser.add_argument("--kind", choices=list(WORKERS), default="dpo")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--checkpoint-steps", type=int, default=2)
    parser.add_argument("--kill-after", type=int, default=4)
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="aloe-resume-") as root:
        whole, killed = Path(root) / "whole", Path(root) / "killed"
        if start(arguments, whole).wait():
            raise SystemExit("the undisturbed training failed")
        step = kill_in_the_middle(arguments, killed)
        if start(arguments, killed).wait():
            raise SystemExit("the resumed training failed")
        curves = {
            "undisturbed": curve(whole, arguments.kind),
            "killed": curve(killed, arguments.kind),
        }
    difference = max(abs(a - b) for a, b in zip(*curves.values(), strict=True))
    console = Console()
    console.print(f"killed after a state of step {step} of {len(curves['killed'])}")
    for number, (one, other) in enumerate(zip(*curves.values(), strict=True), 1):
        console.print(f"{number:4d}  {one:.6f}  {other:.6f}")
    console.print(f"largest difference {difference:.2e}")
    write_json(arguments, {"largest_difference": difference}, {**curves, "killed_after": step})


if __name__ == "__main__":
    main()
