"""Ray as a run starts it."""

import subprocess
import sys

import pytest
from ray_cluster import started_cluster

RUN = """
from aloe.config import RayConfig
from aloe.runtime import connect
import ray
connect(RayConfig(num_cpus=3, object_store_mib=100))
print(ray.cluster_resources()["CPU"])
"""


WORKERS = """
import os
from aloe.config import RayConfig
from aloe.runtime import connect
import ray
connect(RayConfig(num_cpus=4, object_store_mib=100))

@ray.remote
class Actor:
    def draw(self):
        import numpy, random
        from ray._raylet import ActorClassID
        drawn = ActorClassID.from_random().hex(), numpy.random.random(), random.random()
        return os.environ["OMP_NUM_THREADS"], os.getppid(), *drawn

actors = [Actor.remote() for _ in range(2)]
for found in ray.get([actor.draw.remote() for actor in actors]):
    print(*found)
"""


def test_workers_that_are_copies_of_one_server_draw_what_differs():
    run = subprocess.run([sys.executable, "-c", WORKERS], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    one, other = (line.split() for line in run.stdout.splitlines()[-2:])
    assert one[:2] == other[:2]  # threads, and the server
    assert all(a != b for a, b in zip(one[2:], other[2:], strict=True))


@pytest.fixture
def somebody_elses_cluster():
    with started_cluster(num_cpus=1, object_store_memory=100 << 20):
        yield


def test_without_an_address_a_run_starts_its_own_cluster(somebody_elses_cluster, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    run = subprocess.run([sys.executable, "-c", RUN], capture_output=True, text=True, check=False)
    assert run.stdout.split() == ["3.0"], run.stderr
