"""What the stages of training have in common, on the driver's side."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import pyarrow as pa

from aloe.chat import ChatOptions, policy_options
from aloe.config import Config, TrainingStage
from aloe.engines.embedded import check_checkpoint
from aloe.engines.vllm_core import MODULES
from aloe.errors import StageStopped, WorldFault
from aloe.placement import Kind, check_place, groups_of, nodes, phases_of, show
from aloe.progress import say
from aloe.runtime import connect
from aloe.schema import derive_seed
from aloe.storage import Manifest, Store, stage_manifest
from aloe.training.data import count_rows
from aloe.training.options import check_batches
from aloe.training.protocol import Job, Options, Outcome
from aloe.training.recorder import Recorder, recorded

_HEAVY = ("deepspeed", "datasets", "peft")
"""What OpenRLHF imports beside vLLM; OpenRLHF itself is imported where Ray is."""
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
    start: str = "base",
    reference: Store | None = None,
    more: dict[str, Any] | None = None,
) -> Manifest:
    """Train on the cluster and write ``training/<kind>/``: checkpoint, metrics, manifest.

    Args:
        after: stages whose output is read.
        data: the file of training rows and its schema.
        run: called when everything else is checked.
        start: kind of training whose checkpoint the model starts from, or base.
        reference: where log-probs of a frozen reference are kept, if there is one.
        more: settings outside of ``options`` on which the outcome depends.

    Raises:
        UserError: an earlier stage is missing, the data or the batch size do not fit, or the
            cluster cannot place the roles.
    """
    started = time.monotonic()
    settings = {
        "base": config.training.base,
        "seed": config.run.seed,
        kind: options.model_dump(mode="json", exclude=_INDIFFERENT),
        "chat": _plainly(policy_options(config)),
        **(more or {}),
    }
    manifest = stage_manifest(
        store, f"training/{kind}", settings, after=after, resume=config.run.resume
    )
    if manifest.complete:
        return manifest
    phases = phases_of(config, kind)
    groups = [groups_of(config.placements, phase) for phase in phases]
    trained = getattr(config.placements, phases[-1][-1])
    rows = count_rows(store, *data)["train"]
    if not isinstance(options, TrainingStage):  # it makes its own rows from these
        rows = options.batch_size
    check_batches(f"training.{kind}", options, rows, trained.nodes * trained.devices)
    base = config.training.base
    checkpoint = base if start == "base" else store.url(config.training.checkpoint_of(start))
    check_checkpoint(checkpoint)
    connect(config.ray, (*MODULES, *_HEAVY))
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
        policy_options(config),
        reference=reference,
    )
    with manifest.paused(store, started):
        try:
            with recorded(kind, store) as recorder:
                outcome = run(config, job, recorder)
        except WorldFault as fault:
            # Ray's wrapper of a rank's error is of the class of its cause, but words it otherwise.
            cause = getattr(fault, "cause", None) or fault
            raise StageStopped(f"training/{kind}: {cause}") from fault
    say(f"{kind}: {_summary(outcome.results)}")
    manifest = manifest.finish(
        store, started, usage=outcome.usage, counts=outcome.counts, results=outcome.results
    )
    store.remove(f"training/{kind}/state")  # nobody goes on from it any more
    return manifest


def before(start: str) -> list[str]:
    """Stages whose checkpoint a training begins with."""
    return [] if start == "base" else [f"training/{start}"]


def _plainly(options: ChatOptions) -> dict[str, Any]:
    return {**asdict(options), "variables": dict(options.variables)}


_INDIFFERENT = {"reference_dir", "checkpoint_steps"}
"""Options that change nothing in what is learned."""


def _summary(results: dict[str, Any]) -> str:
    pairs = [
        ("held-out loss", "loss"),
        ("training loss", "train_loss"),
        ("held-out accuracy", "accuracy"),
        ("held-out reward", "reward"),
        ("verifiable", "reward_verifiable"),
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
