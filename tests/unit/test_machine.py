import os
from pathlib import Path

import pytest

from aloe import machine
from aloe.machine import usable_cores
from aloe.training import compile as compiling


@pytest.fixture(autouse=True)
def sixteen(monkeypatch):
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda _: set(range(16)))


def written(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


V1 = "sys/fs/cgroup/cpu,cpuacct"


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, 16),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "200000 100000\n"}, 2),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, 16),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "50000 100000\n"}, 1),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "250000 100000\n"}, 3),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "6400000 100000\n"}, 16),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "nonsense\n"}, 16),
        (  # a limit of the pod above that of the container
            {
                "proc/self/cgroup": "0::/pod/one\n",
                "sys/fs/cgroup/pod/cpu.max": "300000 100000\n",
                "sys/fs/cgroup/pod/one/cpu.max": "max 100000\n",
            },
            3,
        ),
        (  # the path on the host, which the container cannot see
            {
                "proc/self/cgroup": "0::/../../kubepods/pod1\n",
                "sys/fs/cgroup/cpu.max": "400000 100000\n",
            },
            4,
        ),
        (
            {
                "proc/self/cgroup": "4:memory:/docker/a\n3:cpu,cpuacct:/docker/a\n0::/\n",
                f"{V1}/cpu.cfs_quota_us": "400000\n",
                f"{V1}/cpu.cfs_period_us": "100000\n",
            },
            4,
        ),
        (
            {
                "proc/self/cgroup": "3:cpuacct,cpu:/\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            16,
        ),
    ],
)
def test_a_quota_decides_how_many_cores_are_used(tmp_path, files, cores):
    assert usable_cores(written(tmp_path, files)) == cores


@pytest.mark.parametrize(("reserved", "threads"), [("4", 4), ("64", 16), ("", 16)])
def test_threads_are_those_reserved_but_no_more_than_cores(monkeypatch, reserved, threads):
    monkeypatch.setenv("OMP_NUM_THREADS", reserved)
    monkeypatch.setattr(machine, "_quota", lambda _: None)
    assert machine.reserved_threads() == threads
    monkeypatch.setattr(machine, "_quota", lambda _: 2.0)
    assert machine.reserved_threads() == 2


def test_a_build_has_no_more_processes_than_cores(monkeypatch, tmp_path):
    monkeypatch.setenv("ALOE_CACHE", str(tmp_path))
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", "")
    monkeypatch.setenv("MAX_JOBS", "")
    monkeypatch.delenv("MAX_JOBS")
    monkeypatch.setattr(machine, "_quota", lambda _: 3.0)
    monkeypatch.setattr(compiling, "_OPS", {})
    compiling.build_cpu_ops(print)
    assert os.environ["MAX_JOBS"] == "3"
