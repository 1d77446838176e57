"""Pairs of long dialogues, and this project's DPO on them in a process of its own."""

from __future__ import annotations

import itertools
import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import yaml
from measuring import tree_seeds

from aloe.config_file import load_config
from aloe.machine import machine_has_gpu
from aloe.schema import METRICS, PAIRS
from aloe.storage import Store, run_store, stage_manifest

GIB = 1 << 30


def pairs(trees: int, turns: int, user_words: int, reply_words: int) -> Iterator[dict[str, Any]]:
    """Rows of `aloe.schema.PAIRS`: one pair for each turn of a spine, in its whole history.

    The words are those of the seed personas, in random order: training's cost depends on lengths
    only. A tree of one turn is held out, as a training wants one.
    """
    draw = random.Random(0)
    words = " ".join(seed.persona.profile for seed in tree_seeds(24)).split()

    def text(count: int) -> str:
        return " ".join(draw.choices(words, k=count))

    for tree in range(trees + 1):
        prompt = [{"role": "system", "content": text(user_words)}]
        for turn in range(1, turns + 1 if tree < trees else 2):
            prompt = [*prompt, {"role": "user", "content": text(user_words)}]
            preferred, rejected = text(reply_words), text(reply_words)
            yield {
                "pair_id": f"{tree}-{turn}",
                "tree_id": f"{tree}",
                "persona_id": f"{tree}",
                "split": "train" if tree < trees else "validation",
                "turn": turn,
                "prompt": prompt,
                "preferred": preferred,
                "rejected": rejected,
                "preferred_role": "guided",
                "probability": 0.9,
                "judge_agrees": True,
            }
            prompt = [*prompt, {"role": "assistant", "content": preferred}]


def train(folder: Path, rows: list[dict[str, Any]], model: str, options: dict[str, Any]) -> Any:
    """Run ``aloe train dpo`` on these rows.

    Args:
        folder: for the run; new.
        options: the section ``training.dpo``.

    Returns:
        ``steps`` (seconds of each), ``losses``, ``reference_seconds`` (of the pass before the first
        step; 0 if there is none), ``tokens`` and ``computed_tokens`` of one step, ``peak_gib``, and
        on a GPU ``allocated_gib``, the most that the policy's tensors took.
    """
    values = {
        "run": {"dir": str(folder)},
        "models": {"nobody": {"backend": "scripted"}},
        "roles": dict.fromkeys(("user", "inducer", "guided", "unguided", "judge"), "nobody"),
        "personas": {
            "writer": "nobody",
            "profiles": {"size": 24},
            "personalities": {"size": 24},
        },
        # One GPU holds both roles, where they are there at the same time.
        "placements": {role: {"group": "one"} for role in ("actor", "reference")},
        "training": {"base": model, "dpo": {**options, "start_from": "base"}},
    }
    folder.mkdir(parents=True)
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(values))
    store = run_store(load_config(str(file), []))
    store.write_table("preferences/pairs.parquet", rows, PAIRS)
    stage_manifest(store, "preferences", {}).finish(store, time.monotonic())
    with resident() as peaks:
        command = [sys.executable, "-m", "aloe", "train", "dpo", str(file)]
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr[-4000:])
    return numbers(store) | {"peak_gib": sum(peaks.values())}


def numbers(store: Store) -> dict[str, Any]:
    """What a finished DPO wrote down about its steps."""
    rows = store.read_table("training/dpo/metrics.parquet", METRICS).to_pylist()
    of_steps: dict[str, list[float]] = {}
    for row in rows:
        if row["split"] == "train":
            of_steps.setdefault(row["name"], []).append(row["value"])
    manifest = json.loads(store.read_text("training/dpo/manifest.json"))
    return {
        "allocated_gib": max(of_steps.get("gpu_gib", [0.0])),
        "steps": of_steps["seconds"],
        "losses": of_steps["loss"],
        "tokens": of_steps["tokens"][0],
        "computed_tokens": of_steps["computed_tokens"][0],
        "reference_seconds": manifest["results"].get("reference_seconds", 0.0),
    }


@contextmanager
def resident() -> Iterator[dict[str, float]]:
    """Peak memory, in GiB, of what runs inside the block: all of the GPUs' that is taken.

    Without GPUs, what is resident of the training actors that are children of this process. Of
    roles that are there at the same time all count; a precomputed reference is gone before the
    policy comes, so the larger of the two counts.
    """
    peaks: dict[str, float] = {}
    over = threading.Event()

    def look() -> None:
        while not over.is_set():
            if machine_has_gpu():
                peaks["GPU"] = max(peaks.get("GPU", 0.0), _gpu_gib())
                time.sleep(0.1)
                continue
            now: dict[str, float] = {}
            for child in psutil.Process().children(recursive=True):
                try:
                    title = " ".join(child.cmdline())
                    status = Path(f"/proc/{child.pid}/status").read_text()
                except (psutil.NoSuchProcess, OSError):  # it has just ended
                    continue
                if "ray::DpoWorker" in title or "ray::ReferenceWorker" in title:
                    line = next((x for x in status.splitlines() if x.startswith("VmHWM")), "0 0")
                    now[str(child.pid)] = int(line.split()[1]) * 1024 / GIB
            if sum(now.values()) > sum(peaks.values()):
                peaks.clear()
                peaks.update(now)
            time.sleep(0.2)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield peaks
    finally:
        over.set()
        thread.join()


def _gpu_gib() -> float:
    """Memory of all GPUs that is taken, by whomever: tensors, what allocators keep, contexts."""
    command = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    lines = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return sum(map(float, lines.split())) / 1024


def peer(script: str, folder: Path, rows: list[dict[str, Any]], *arguments: object) -> Any:
    """Run a peer's script of this folder on the training pairs; what it prints last.

    Its input are prompts and replies as the tokenizer's chat template writes them.
    """
    folder.mkdir(parents=True)
    file = folder / "pairs.jsonl"
    keys = ("prompt", "preferred", "rejected")
    kept = [{key: row[key] for key in keys} for row in rows if row["split"] == "train"]
    file.write_text("".join(json.dumps(row) + "\n" for row in kept))
    command = [sys.executable, str(Path(__file__).with_name(script)), "--pairs", str(file)]
    command += ["--out", str(folder / "out"), *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(len(os.sched_getaffinity(0)))}
    with resident() as peaks:
        done = subprocess.run(
            command, check=True, stdout=subprocess.PIPE, env=environment, text=True
        )
    found = json.loads(done.stdout.strip().splitlines()[-1])
    if peaks:
        found |= {"allocated_gib": found["peak_gib"], "peak_gib": sum(peaks.values())}
    return found


def fresh_folders(root: Path) -> Iterator[Path]:
    """Folders that do not exist yet."""
    return (root / str(number) for number in itertools.count())
