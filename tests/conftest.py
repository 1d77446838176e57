"""Fixtures that many tests share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from scripted_runs import scripted_values

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")


@pytest.fixture
def scripted_config(tmp_path: Path) -> Path:
    """A whole run without any model but the trained one, on small pools."""
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(scripted_values(tmp_path)))
    return path


@pytest.fixture(scope="module")
def local_ray() -> Iterator[None]:
    """Ray is started by the code under test; it is stopped when the module's tests are over."""
    yield
    import ray

    ray.shutdown()
