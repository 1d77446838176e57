"""What the benchmarks share: personas to talk, order of variants, medians, the JSON file."""

from __future__ import annotations

import json
import os
import platform
import statistics
from argparse import Namespace
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from aloe.dialogue.tree import TreeSeed
from aloe.personas.importing import read_pool_files
from aloe.roles import Persona

ROLES = ("user", "inducer", "guided", "unguided", "judge")
_SEEDS = Path(__file__).parent.parent / "aloe" / "personas" / "seeds"


def tree_seeds(count: int) -> list[TreeSeed]:
    """Trees of the personas that the shipped seeds make."""
    profiles = read_pool_files([str(_SEEDS / "profiles.jsonl")])
    personalities = read_pool_files([str(_SEEDS / "personalities.jsonl")])
    return [
        TreeSeed(
            f"tree-{i}",
            Persona(f"p{i}", profiles[i % len(profiles)], personalities[i % len(personalities)]),
            "train",
            0,
            "benchmark",
        )
        for i in range(count)
    ]


def rotated(names: Iterable[str], repeat: int) -> list[str]:
    """The variants in another order for each repetition."""
    every = list(names)
    return every[repeat % len(every) :] + every[: repeat % len(every)]


def median(runs: list[dict[str, Any]], key: str) -> float:
    return statistics.median(run[key] for run in runs)


def write_json(arguments: Namespace, ratios: dict[str, float], runs: Any) -> None:
    """Write ``arguments.json``, if it was asked for."""
    if not arguments.json:
        return
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    settings = {key: value for key, value in vars(arguments).items() if key != "json"}
    machine = {"cores": os.cpu_count(), "machine": platform.machine()}
    document = {"ratios": ratios, "settings": settings, "machine": machine, "runs": runs}
    arguments.json.write_text(json.dumps(document, indent=2) + "\n")
