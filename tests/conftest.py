"""Fixtures that many tests share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")


@pytest.fixture
def scripted_config(tmp_path: Path) -> Path:
    """A whole run without any model but the trained one, on small pools."""
    values = {
        "run": {"dir": str(tmp_path / "run"), "seed": 3},
        "ray": {"num_cpus": 4, "logical_gpus": 2},
        "models": {"script": {"backend": "scripted"}},
        "roles": dict.fromkeys(("user", "inducer", "guided", "unguided", "judge"), "script"),
        "personas": {
            "writer": "script",
            "profiles": {"size": 24},
            "personalities": {"size": 24},
            "asked": 1,
            "requests_per_round": 4,
            "max_rounds": 2,
            "heldout_profiles": 2,
            "heldout_personalities": 2,
            "personalities_per_profile": 1,
            "max_personas": 12,
        },
        "dialogue": {"turns": 3, "actors": {"in_flight": 4}},
        "preferences": {"validation_share": 0.25},
        "training": {
            "base": "embedded://tiny",
            "sft": {"batch_size": 4, "max_len": 512, "learning_rate": 1e-3},
            "dpo": {"batch_size": 4, "max_len": 512, "learning_rate": 1e-3, "beta": 0.1},
        },
        "evaluation": {"policies": {"base": "model:script"}, "turns": 3},
    }
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.fixture(scope="module")
def local_ray() -> Iterator[None]:
    """Ray is started by the code under test; it is stopped when the module's tests are over."""
    yield
    import ray

    ray.shutdown()
