"""Fixtures that many tests share, and how many processes there are for tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from hypothesis import settings
from scripted_runs import scripted_file

from aloe.machine import usable_cores

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# How long an example takes says more of the machine than of the code.
settings.register_profile("aloe", deadline=None)
settings.load_profile("aloe")
# Fork servers of their own: tests kill processes that they find among their children.
os.environ["ALOE_FORK_SERVER"] = f"tests-{os.getpid()}"

_GIB_EACH = 8
"""Memory that the largest test of a process takes."""
_MOST_PROCESSES = 8


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Test processes for ``-n auto``: one on each core, as far as memory allows."""
    room = psutil.virtual_memory().available // (_GIB_EACH << 30)
    return max(1, min(usable_cores(), room, _MOST_PROCESSES))


def pytest_sessionfinish() -> None:
    _stop_ray()


@pytest.fixture
def scripted_config(tmp_path: Path) -> Path:
    """A whole run without any model but the trained one, on small pools."""
    return scripted_file(tmp_path)


@pytest.fixture(scope="module")
def local_ray() -> None:
    """A Ray with 4 CPUs and 4 logical GPUs that all files use which break nothing in it."""
    from aloe.config import RayConfig
    from aloe.runtime import connect

    connect(RayConfig(num_cpus=4, logical_gpus=4))


@pytest.fixture(scope="module")
def own_ray() -> Iterator[None]:
    """No Ray is there when the file's tests begin, nor when they are over: they start their own."""
    _stop_ray()
    yield
    _stop_ray()


def _stop_ray() -> None:
    import ray

    ray.shutdown()
