"""Ray as a run starts it."""

import subprocess
import sys

import pytest
from ray.cluster_utils import Cluster

RUN = """
from aloe.config import RayConfig
from aloe.runtime import connect
import ray
connect(RayConfig(num_cpus=3, object_store_mib=100))
print(ray.cluster_resources()["CPU"])
"""


@pytest.fixture
def somebody_elses_cluster():
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 100 << 20}
    )
    yield
    cluster.shutdown()


def test_without_an_address_a_run_starts_its_own_cluster(somebody_elses_cluster, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    run = subprocess.run([sys.executable, "-c", RUN], capture_output=True, text=True, check=False)
    assert run.stdout.split() == ["3.0"], run.stderr
