"""A rollout over two Ray nodes, of which one is lost in the middle."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
from ray.cluster_utils import Cluster
from ray_cluster import started_cluster
from scripted_runs import persona_rows, scripted_values

from aloe.config import Config
from aloe.dialogue import rollout_dialogues
from aloe.schema import NODES, PERSONAS
from aloe.storage import Manifest, Store

TREES = 64


@pytest.fixture
def cluster(own_ray: None) -> Iterator[Cluster]:
    with started_cluster(num_cpus=2, object_store_memory=200 << 20) as cluster:
        yield cluster


def prepared(folder, address: str, number: int) -> tuple[Config, Store]:
    """A run with that number of actors, each of which takes a whole node."""
    values = scripted_values(folder, latency_s=0.1)
    values["ray"] = {"address": address}
    actors = {"min": number, "max": number, "num_cpus": 2, "in_flight": 8}
    values["dialogue"] = {"turns": 3, "actors": actors, "part_size": 4}
    config = Config.model_validate(values)
    store = Store(config.run.dir)
    store.write_table("personas/personas.parquet", persona_rows(["train"] * TREES), PERSONAS)
    Manifest("personas", {}, "fixed", complete=True).save(store)
    return config, store


def test_a_lost_node_costs_no_tree_and_doubles_none(cluster, tmp_path):
    second = cluster.add_node(num_cpus=2, object_store_memory=200 << 20)
    config, store = prepared(tmp_path / "lost", cluster.address, number=2)
    seen: list[int] = []

    def lose_the_node() -> None:
        deadline = time.monotonic() + 120
        while len(store.names("dialogue", "parts")) < 3 and time.monotonic() < deadline:
            time.sleep(0.05)
        seen.append(len(store.names("dialogue", "parts")))
        cluster.remove_node(second, allow_graceful=False)

    thread = threading.Thread(target=lose_the_node)
    thread.start()
    manifest = rollout_dialogues(config, store)
    thread.join()
    assert 3 <= seen[0] < TREES // 4  # it was in the middle

    assert manifest.counts["trees"] == TREES
    rows = store.read_table("dialogue/nodes", NODES).to_pylist()
    assert len({row["node_id"] for row in rows}) == len(rows) == TREES * 3 * 3

    config, undisturbed = prepared(tmp_path / "undisturbed", cluster.address, number=1)
    rollout_dialogues(config, undisturbed)
    assert undisturbed.read_table("dialogue/nodes", NODES).to_pylist() == rows
