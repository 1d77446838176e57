"""Configurations and personas of runs whose speakers need no model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

ROLES = ("user", "inducer", "guided", "unguided", "judge")


def scripted_values(folder: Path, latency_s: float = 0.0) -> dict[str, Any]:
    """A whole run on small pools: scripted talk, real training of the tiny model."""
    tiny = {"batch_size": 4, "max_len": 512, "learning_rate": 1e-3}
    return {
        "run": {"dir": str(folder / "run"), "seed": 3},
        "ray": {"num_cpus": 4, "logical_gpus": 2},
        "models": {"script": {"backend": "scripted", "latency_s": latency_s}},
        "roles": dict.fromkeys(ROLES, "script"),
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
            "max_personas": 16,
        },
        "dialogue": {"turns": 3, "actors": {"in_flight": 4}},
        "preferences": {"validation_share": 0.25},
        "training": {"base": "embedded://tiny", "sft": tiny, "dpo": tiny | {"beta": 0.1}},
        "evaluation": {"policies": {"base": "model:script"}, "turns": 3},
    }


def scripted_file(folder: Path) -> Path:
    """Its configuration file."""
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(scripted_values(folder)))
    return path


def persona_rows(splits: list[str]) -> list[dict[str, str]]:
    """Rows for ``personas.parquet``; columns that are not given are null."""
    return [
        {
            "persona_id": f"p{number}",
            "profile": f"Life number {number}.",
            "personality": "Calm.",
            "split": split,
        }
        for number, split in enumerate(splits)
    ]
