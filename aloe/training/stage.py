"""What the SFT and the DPO stage have in common, on the driver's side."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pyarrow as pa

from aloe.config import Config, DpoConfig, SftConfig
from aloe.engines.embedded import check_checkpoint
from aloe.progress import say
from aloe.runtime import connect
from aloe.schema import METRICS, derive_seed
from aloe.storage import Manifest, Store, stage_manifest
from aloe.training.data import count_rows
from aloe.training.launch import follow, ranks
from aloe.training.options import check_batches
from aloe.training.protocol import Job


def run_stage(
    config: Config,
    store: Store,
    kind: str,
    options: SftConfig | DpoConfig,
    checkpoint: str,
    after: list[str],
    data: tuple[str, pa.Schema],
    worker: Callable[[], Any],
) -> Manifest:
    """Train on the cluster and write ``training/<kind>/``: checkpoint, metrics, manifest.

    Args:
        kind: sft or dpo.
        checkpoint: where the policy starts.
        after: stages whose output is read.
        data: the file of training rows and its schema.
        worker: imports and returns the Ray actor class; called when everything else is checked.

    Raises:
        UserError: an earlier stage is missing, the data or the batch size do not fit, or the
            cluster has not enough GPUs.
    """
    started = time.monotonic()
    settings = {
        "base": config.training.base,
        "seed": config.run.seed,
        kind: options.model_dump(mode="json"),
    }
    manifest = stage_manifest(
        store, f"training/{kind}", settings, after=after, resume=config.run.resume
    )
    if manifest.complete:
        return manifest
    check_batches(f"training.{kind}", options, count_rows(store, *data)["train"])
    check_checkpoint(checkpoint)
    connect(config.ray)
    job = Job(
        kind,
        store,
        checkpoint,
        options,
        derive_seed(config.run.seed, "training", kind),
        config.training.trust_remote_code,
    )
    key = f"training.{kind}.ranks"
    with ranks(worker(), options.ranks, key, config.ray.autoscaling) as group:
        outcome, metrics = follow(group, job)
    store.write_table(f"training/{kind}/metrics.parquet", metrics, METRICS)
    say(f"{kind}: {_summary(outcome.results)}")
    return manifest.finish(store, started, counts=outcome.counts, results=outcome.results)


def _summary(results: dict[str, Any]) -> str:
    pairs = [
        ("held-out loss", "loss"),
        ("training loss", "train_loss"),
        ("held-out accuracy", "accuracy"),
    ]
    parts = [
        f"{label} {results[f'{key}_before']:.4f} -> {results[f'{key}_after']:.4f}"
        for label, key in pairs
        if f"{key}_before" in results
    ]
    return ", ".join(parts)
