"""What the SFT, the reward and the DPO stage have in common, on the driver's side."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pyarrow as pa

from aloe.config import Config
from aloe.engines.embedded import check_checkpoint
from aloe.placement import Kind, check_place, groups_of, nodes, phases_of, show
from aloe.progress import say
from aloe.runtime import connect
from aloe.schema import derive_seed
from aloe.storage import Manifest, Store, stage_manifest
from aloe.training.data import count_rows
from aloe.training.options import check_batches
from aloe.training.protocol import Job, Options, Outcome
from aloe.training.recorder import Recorder, recorded

Run = Callable[[Config, Job, Recorder], Outcome]
"""Places the roles of a training and lets them work."""


def run_stage(
    config: Config,
    store: Store,
    kind: Kind,
    options: Options,
    after: list[str],
    data: tuple[str, pa.Schema],
    run: Run,
    reference: Store | None = None,
) -> Manifest:
    """Train on the cluster and write ``training/<kind>/``: checkpoint, metrics, manifest.

    Args:
        after: stages whose output is read; training/sft among them is where the model starts.
        data: the file of training rows and its schema.
        run: called when everything else is checked.
        reference: where log-probs of a frozen reference are kept, if there is one.

    Raises:
        UserError: an earlier stage is missing, the data or the batch size do not fit, or the
            cluster cannot place the roles.
    """
    started = time.monotonic()
    settings = {
        "base": config.training.base,
        "seed": config.run.seed,
        kind: options.model_dump(mode="json", exclude=_INDIFFERENT),
    }
    manifest = stage_manifest(
        store, f"training/{kind}", settings, after=after, resume=config.run.resume
    )
    if manifest.complete:
        return manifest
    phases = phases_of(config, kind)
    groups = [groups_of(config.placements, phase) for phase in phases]
    trained = getattr(config.placements, phases[-1][-1])
    check_batches(
        f"training.{kind}",
        options,
        count_rows(store, *data)["train"],
        trained.nodes * trained.devices,
    )
    from_sft = "training/sft" in after
    checkpoint = store.url("training/sft/checkpoint") if from_sft else config.training.base
    check_checkpoint(checkpoint)
    connect(config.ray)
    show(f"training.{kind}", groups, nodes())
    for phase in groups:
        check_place(phase, config.ray)
    job = Job(
        kind,
        store,
        checkpoint,
        options,
        derive_seed(config.run.seed, "training", kind),
        config.training.trust_remote_code,
        reference=reference,
    )
    try:
        with recorded(kind, store) as recorder:
            outcome = run(config, job, recorder)
    except BaseException:
        manifest.pause(store, started)
        raise
    say(f"{kind}: {_summary(outcome.results)}")
    manifest = manifest.finish(store, started, counts=outcome.counts, results=outcome.results)
    store.remove(f"training/{kind}/state")  # nobody goes on from it any more
    return manifest


_INDIFFERENT = {"reference_dir", "checkpoint_steps"}
"""Options that change nothing in what is learned."""


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
    if "reward_accuracy_after" in results:
        low, high = results["reward_accuracy_interval_after"]
        share = results["reward_accuracy_after"]
        parts.append(f"by margin over the reference {share:.4f} [{low:.2f}, {high:.2f}]")
    return ", ".join(parts)
