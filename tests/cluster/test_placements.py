"""SFT, reward and DPO on two Ray nodes: who lies where, as the table says and as Ray says."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from functools import cache
from io import StringIO
from typing import Any

import pytest
import ray
from planted_run import curve, planted_run
from ray.cluster_utils import Cluster
from ray.util.state import list_actors, list_placement_groups
from ray_cluster import started_cluster

from aloe.progress import use_json
from aloe.training import train_dpo, train_reward, train_sft

PLACEMENTS = {
    "actor": {"nodes": 2, "devices": 1},
    "reference": {"nodes": 1, "devices": 2},
    "reward": {"nodes": 1, "devices": 2, "group": "judges"},
}
SHARED = {role: {"devices": 2, "group": "policy"} for role in ("actor", "reference")}
"""Both on the same two devices."""
WORKERS = {"actor": ("SftWorker", "DpoWorker"), "reward": ("RewardWorker",)}
WORKERS["reference"] = ("ReferenceWorker",)
TRAININGS = {"sft": train_sft, "reward": train_reward, "dpo": train_dpo}


@pytest.fixture(scope="module")
def cluster(own_ray: None) -> Iterator[Cluster]:
    node = {"num_cpus": 4, "object_store_memory": 200 << 20}
    with started_cluster(**node, num_gpus=2, include_dashboard=True) as cluster:
        cluster.add_node(**node, num_gpus=3)
        yield cluster


@contextmanager
def watched() -> Iterator[dict[str, Any]]:
    """What Ray's state API says while the block runs: actors and placement groups by id."""
    seen: dict[str, Any] = {"actors": {}, "groups": {}}
    over = threading.Event()

    def look() -> None:
        while not over.is_set():
            if ray.is_initialized():
                for actor in list_actors(detail=True, filters=[("state", "=", "ALIVE")]):
                    seen["actors"][actor.actor_id] = actor
                for group in list_placement_groups(
                    detail=True, filters=[("state", "=", "CREATED")]
                ):
                    seen["groups"][group.placement_group_id] = group
            time.sleep(1)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


@pytest.fixture(scope="module")
def train(
    cluster: Cluster, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], dict[str, Any]]:
    """Trains what a name says, once; gives what the table said and what Ray said meanwhile."""

    @cache
    def trained(run: str) -> dict[str, Any]:
        kind, how = run.split()
        start = {"start_from": "base"}
        config, store = planted_run(
            tmp_path_factory.mktemp(how),
            epochs=2,
            zero_stage=3,
            ray={"address": cluster.address, "fork_server": True},
            reward=start,
            dpo={
                **start,
                "nll_coef": 0.1,
                "ipo": True,
                "reference": "precomputed" if how == "precomputed" else "placed",
            },
            placements={**PLACEMENTS, **SHARED} if how == "shared" else PLACEMENTS,
        )
        told = StringIO()
        use_json(True)
        try:
            with redirect_stdout(told), watched() as seen:
                manifest = TRAININGS[kind](config, store)
        finally:
            use_json(False)
        lines = [json.loads(line) for line in told.getvalue().splitlines()]
        (table,) = [line for line in lines if "placements" in line]
        return {"manifest": manifest, "store": store, **seen, **table}

    return trained


@pytest.mark.parametrize(
    "run", ["sft placed", "reward placed", "dpo placed", "dpo precomputed", "dpo shared"]
)
def test_the_table_is_what_ray_placed(train, run):
    found = train(run)
    assert {row["role"] for row in found["placements"]} == {
        "sft placed": {"actor"},
        "reward placed": {"reward"},
    }.get(run, {"actor", "reference"})
    used: dict[str, set[str]] = {}
    for row in found["placements"]:
        actors = [a for a in found["actors"].values() if a.class_name in WORKERS[row["role"]]]
        assert len(actors) == row["nodes"] * row["devices"]
        reserved = {
            amount
            for actor in actors
            for name, amount in actor.required_resources.items()
            if name.startswith("GPU_group_")  # of a bundle of a placement group
        }
        assert reserved == {row["gpus_per_process"]}
        by_node: dict[str, int] = {}
        for actor in actors:
            by_node[actor.node_id] = by_node.get(actor.node_id, 0) + 1
        assert sorted(by_node.values()) == [row["devices"]] * row["nodes"]
        places = {a.placement_group_id for a in actors}
        assert len(places) == row["nodes"]
        for place in places:
            bundles = found["groups"][place].bundles
            assert [b["unit_resources"] for b in bundles] == [{"GPU": 1, "CPU": 1}] * row["devices"]
        assert used.setdefault(row["group"], places) == places  # roles of a group share them
        assert len(row["shares_with"]) == (run == "dpo shared")
    assert sorted(place for places in used.values() for place in places) == sorted(found["groups"])


def test_the_table_says_what_the_cluster_has(train):
    machines = train("dpo placed")["cluster"]
    assert sorted(machine["gpus"] for machine in machines) == [2, 3]
    assert {machine["name"] for machine in machines} == {node["NodeID"] for node in ray.nodes()}


def test_a_placed_reference_holds_its_devices_while_the_policy_trains(train):
    phases = {
        run: {row["role"]: row["phase"] for row in train(run)["placements"]}
        for run in ("dpo placed", "dpo precomputed")
    }
    assert phases["dpo placed"] == {"reference": 1, "actor": 1}
    assert phases["dpo precomputed"] == {"reference": 1, "actor": 2}


def test_a_placed_reference_gives_what_a_precomputed_one_gives(train):
    precomputed = train("dpo precomputed")
    for placed in (train("dpo placed"), train("dpo shared")):
        for name in ("loss", "margin", "kl", "nll"):
            expected = curve(precomputed["store"], "dpo", name)
            assert len(expected) == 6
            assert curve(placed["store"], "dpo", name) == pytest.approx(expected, abs=1e-4), name
        for name, value in placed["manifest"].results.items():
            assert value == pytest.approx(precomputed["manifest"].results[name], abs=1e-4), name


def test_nothing_is_held_afterwards(train):
    train("dpo shared")
    deadline = time.monotonic() + 20
    while ray.available_resources().get("GPU") != 5:
        assert time.monotonic() < deadline
        time.sleep(0.5)
    assert not [group for group in list_placement_groups() if group.state != "REMOVED"]
