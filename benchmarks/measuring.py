"""What the benchmarks share: personas to talk, order of variants, medians, the JSON file."""

from __future__ import annotations

import json
import os
import platform
import statistics
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

from aloe.config import DialogueConfig, Sampling
from aloe.dialogue.tree import TreeSeed
from aloe.personas.seeds import built_in_seeds
from aloe.roles import Persona

T = TypeVar("T")

ROLES = ("user", "inducer", "guided", "unguided", "judge")


def tree_seeds(count: int) -> list[TreeSeed]:
    """Trees of the personas that the shipped seeds make."""
    profiles, personalities = built_in_seeds("profile"), built_in_seeds("personality")
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


def dialogue_arguments(parser: ArgumentParser, trees: int, kv_gib: int) -> None:
    """Arguments of what rolls out trees; the two are their defaults."""
    parser.add_argument("--trees", type=int, default=trees)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--max-tokens", type=int, default=60)
    parser.add_argument("--kv-gib", type=int, default=kv_gib)
    parser.add_argument("--model", default="embedded://smollm2-135m")
    parser.add_argument("--json", type=Path, help="where to write the numbers")


def dialogue_config(arguments: Namespace) -> DialogueConfig:
    """The rollout that `dialogue_arguments` describe."""
    return DialogueConfig(
        turns=arguments.turns,
        tries=8,
        sampling=Sampling(temperature=0.8, max_tokens=arguments.max_tokens),
        induction_max_tokens=100,
    )


def rotated(names: Iterable[T], repeat: int) -> list[T]:
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
    arguments.json.write_text(json.dumps(document, indent=2, default=str) + "\n")
