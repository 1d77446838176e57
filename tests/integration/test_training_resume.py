"""Trainings that are killed in the middle and go on, and the best checkpoint that is kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import ray
from killing import killed_after, step_kept
from planted_run import curve, planted_run
from s3_server import bucket_of_the_environment

from aloe.errors import UserError
from aloe.schema import METRICS
from aloe.training import train_dpo, train_reward, train_sft

pytestmark = pytest.mark.usefixtures("own_ray")

LONG = {"epochs": 4, "batch_size": 6, "micro_batch_size": 3}
"""Twelve steps."""


@pytest.mark.parametrize(
    ("kind", "train", "worker", "zero", "devices"),
    [
        ("dpo", train_dpo, "DpoWorker", 0, 1),
        ("sft", train_sft, "SftWorker", 2, 2),
        ("reward", train_reward, "RewardWorker", 3, 1),
    ],
)
def test_a_killed_training_goes_on_as_if_it_had_not_been(
    tmp_path, kind: str, train: Callable[..., Any], worker: str, zero: int, devices: int
):
    options: dict[str, Any] = {**LONG, "zero_stage": zero, "checkpoint_steps": 2, "eval_steps": 3}
    options["placements"] = {"actor": {"devices": devices}}
    options["reward"] = options["dpo"] = {"start_from": "base"}
    folders = (tmp_path / "undisturbed", tmp_path / "killed")
    runs = [planted_run(folder, **options) for folder in folders]
    for config, store in runs:
        if store is runs[1][1]:
            with pytest.raises(ray.exceptions.RayActorError), killed_after(store, kind, 4, worker):
                train(config, store)
            assert not store.exists(f"training/{kind}/checkpoint")
            assert 4 <= step_kept(store, kind) < 12
        manifest = train(config, store)
        assert manifest.counts["steps"] == 12
        assert not store.exists(f"training/{kind}/state")
    (whole, killed) = (store for _, store in runs)
    tables = [
        store.read_table(f"training/{kind}/metrics.parquet", METRICS) for store in (whole, killed)
    ]
    numbers = [{number(row): row["value"] for row in table.to_pylist()} for table in tables]
    assert numbers[0].keys() == numbers[1].keys()
    for key, value in numbers[0].items():
        if "second" not in key[2]:
            assert numbers[1][key] == pytest.approx(value, abs=1e-4), key


def number(row: dict[str, Any]) -> tuple[str, int, str]:
    return row["split"], row["step"], row["name"]


def test_a_state_of_other_ranks_is_refused(tmp_path):
    config, store = planted_run(tmp_path, **LONG, checkpoint_steps=2)
    with pytest.raises(ray.exceptions.RayActorError), killed_after(store, "sft", 2, "SftWorker"):
        train_sft(config, store)
    other, _ = planted_run(
        tmp_path, **LONG, checkpoint_steps=2, placements={"actor": {"devices": 2}}
    )
    with pytest.raises(UserError, match=r"2 ranks, but .* was kept by 1"):
        train_sft(other, store)
    assert train_sft(config, store).complete


def test_a_training_on_s3_goes_on_from_its_state(tmp_path):
    ray.shutdown()  # the environment of Ray's workers is that of its start
    with bucket_of_the_environment() as bucket:
        config, store = planted_run(f"{bucket}/run", **LONG, checkpoint_steps=2, zero_stage=1)
        failed = pytest.raises(ray.exceptions.RayActorError)
        with failed, killed_after(store, "sft", 4, "SftWorker"):
            train_sft(config, store)
        assert train_sft(config, store).complete
        on_disk, disk = planted_run(tmp_path, **LONG, checkpoint_steps=2, zero_stage=1)
        train_sft(on_disk, disk)
        assert curve(store, "sft") == pytest.approx(curve(disk, "sft"), abs=1e-4)
        assert store.names("training/sft/checkpoint") == disk.names("training/sft/checkpoint")
        assert store.names("training/sft/tensorboard")
        assert not store.exists("training/sft/state")


def test_the_best_checkpoint_is_the_one_that_is_kept(tmp_path):
    """With a learning rate that ruins the model, the best one is not the last."""
    options = {**LONG, "learning_rate": 0.05, "eval_steps": 2}
    config, store = planted_run(tmp_path, **options, best_by="loss", dpo={"best_by": None})
    manifest = train_sft(config, store)
    rows = store.read_table("training/sft/metrics.parquet", METRICS).to_pylist()
    held_out = {
        row["step"]: row["value"]
        for row in rows
        if (row["split"], row["name"]) == ("validation", "loss") and row["step"]
    }
    assert sorted(held_out) == [2, 4, 6, 8, 10, 12]
    best = min(held_out, key=held_out.__getitem__)
    assert manifest.results["best_step"] == best
    assert manifest.results["best_loss"] == pytest.approx(min(held_out.values()))
    kept = store.path("training/sft/checkpoint")
    again, other = planted_run(tmp_path / "again", base=kept)
    before = train_sft(again, other).results["loss_before"]
    assert before == pytest.approx(manifest.results["best_loss"], rel=1e-4)
