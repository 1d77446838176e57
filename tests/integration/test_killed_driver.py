"""A driver killed while an engine of its own Ray starts: nobody is left, the next one starts."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import psutil
import pytest
from processes import WITHIN_S, alive, family

from aloe.processes import NAME

DRIVER = """
import asyncio, sys, time
from aloe.config import RayConfig, StorageConfig, VllmModel
from aloe.engines import Request
from aloe.engines.pool import PooledEngine, await_pools, open_pools
from aloe.engines.start import imports_of
from aloe.runtime import connect

model = VllmModel(backend="vllm", path="embedded://tiny", max_model_len=512, max_num_seqs=8)
print("connecting", flush=True)
ray = RayConfig(num_cpus=2, logical_gpus=1, fork_server=None if {copies} else False)
connect(ray, imports_of([model]))
print("connected", flush=True)
with open_pools({{"tiny": model}}, StorageConfig(), wait=False) as pools:
    print("placed", flush=True)
    await_pools(pools)
    request = Request([{{"role": "user", "content": "Hello"}}], max_tokens=4)
    answer = asyncio.run(PooledEngine("tiny", pools["tiny"]).complete(request))
    print(answer.completion_tokens, flush=True)
    print("started", flush=True)
    sys.stdin.read()
"""


@contextmanager
def driver(mark: str, way: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", DRIVER.format(copies=way == "copies")],
        env=os.environ | {NAME: mark},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        yield process


def reach(process: subprocess.Popen[str], moment: str) -> list[str]:
    """Read what it says until it is there."""
    assert process.stdout is not None
    said: list[str] = []
    while not said or said[-1] != moment:
        line = process.stdout.readline()
        assert line, f"ended after {said}"
        said.append(line.strip())
    return said


def nobody_left(pids: Iterable[int], mark: str) -> bool:
    """Whether within ten seconds these processes, and others with that mark, are gone."""
    end = time.monotonic() + WITHIN_S
    left = list(pids)
    while time.monotonic() < end:
        left = [pid for pid in {*left, *marked(mark)} if alive(pid)]
        if not left:
            return True
        time.sleep(0.2)
    print(*(psutil.Process(pid) for pid in left if alive(pid)), sep="\n")
    return False


def marked(mark: str) -> list[int]:
    """All processes that were started with this word in their environment."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(NAME) == mark:
                found.append(process.pid)
        except psutil.Error:
            continue
    return found


def not_alone(pid: int, mark: str) -> set[int]:
    """A driver and who came of it, once somebody did: how soon depends on the machine."""
    end = time.monotonic() + 30.0
    while time.monotonic() < end:
        everyone = {*family(pid), *marked(mark)}
        if len(everyone) > 1:
            return everyone
        time.sleep(0.05)
    raise AssertionError("nobody was started within 30 s")


@pytest.mark.parametrize("way", ["copies", "interpreters"])
@pytest.mark.parametrize(
    ("moment", "later_s"),
    [("connecting", 0.0), ("connecting", 4.0), ("connected", 0.0), ("placed", 3.0), ("started", 0)],
)
def test_a_driver_that_is_killed_leaves_nobody(moment, later_s, way, tmp_path):
    with driver(tmp_path.name, way) as process:
        reach(process, moment)
        everyone = not_alone(process.pid, tmp_path.name)
        time.sleep(later_s)
        everyone |= {*family(process.pid), *marked(tmp_path.name)}
        process.kill()
    assert nobody_left(everyone, tmp_path.name)


def test_the_next_one_starts_and_leaves_nobody_either(tmp_path):
    with driver(tmp_path.name, "copies") as killed:
        reach(killed, "connected")
        killed.kill()
    with driver(tmp_path.name, "copies") as process:
        assert int(reach(process, "started")[-2]) > 0
        everyone = family(process.pid)
        process.stdin.close()
        assert process.wait(timeout=60) == 0
    assert nobody_left(everyone, tmp_path.name)
