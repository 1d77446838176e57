"""Direct preference optimisation (arXiv 2305.18290) on replies in their true history."""

from __future__ import annotations

from dataclasses import replace

from aloe.config import Config
from aloe.errors import UserError
from aloe.schema import PAIRS
from aloe.storage import Manifest, Store
from aloe.training.data import PAIRS_FILE
from aloe.training.launch import check, follow, teams
from aloe.training.protocol import Job, Outcome
from aloe.training.recorder import Recorder
from aloe.training.stage import before, run_stage


def train_dpo(config: Config, store: Store) -> Manifest:
    """Optimise a checkpoint on ``preferences/pairs.parquet``; the checkpoint is also the reference.

    The reference has a placement of its own. It answers once for each pair before the policy is
    loaded (``training.dpo.reference: precomputed``, see `aloe.training.reference`), or one batch
    ahead of the policy (``placed``, see `aloe.training.asked_reference`).

    Writes ``training/dpo/``: ``checkpoint/`` (a Hugging Face folder), ``metrics.parquet``,
    ``tensorboard/`` and ``manifest.json``. Its results on held-out pairs are ``loss_*``,
    ``accuracy_*`` (by mean log-prob per token) and ``reward_accuracy_after`` (by implicit reward),
    as `aloe.training.accuracy.pair_statistics` defines them, with 95 % Wilson intervals;
    ``train_loss_*`` are on training pairs.

    Raises:
        UserError: see `aloe.training.stage.run_stage`.
    """
    options = config.training.dpo
    if options is None:
        raise UserError("training.dpo: null, expected its settings")
    kept = Store(options.reference_dir or store.url("training/reference"), store.options)
    together = options.reference == "placed"
    return run_stage(
        config,
        store,
        "dpo",
        options,
        after=["preferences", *before(options.start_from)],
        data=(PAIRS_FILE, PAIRS),
        run=_run_together if together else _run_in_turn,
        start=options.start_from,
        reference=kept,
    )


def _run_in_turn(config: Config, job: Job, recorder: Recorder) -> Outcome:
    """The reference answers all pairs and gives its devices back; then the policy is trained."""
    from aloe.training.dpo_worker import DpoWorker
    from aloe.training.reference_worker import ReferenceWorker

    with teams(config, {"reference": ReferenceWorker}) as team:
        asked = follow(team["reference"], "precompute", job, recorder)
    with teams(config, {"actor": DpoWorker}) as team:
        outcome = follow(team["actor"], "train", job, recorder)
    return replace(
        outcome, results=outcome.results | asked.results, counts=outcome.counts | asked.counts
    )


def _run_together(config: Config, job: Job, recorder: Recorder) -> Outcome:
    """The reference answers batch n + 1 while the policy trains on batch n."""
    from aloe.training.dpo_worker import DpoWorker
    from aloe.training.reference_worker import ReferenceWorker

    with teams(config, {"reference": ReferenceWorker, "actor": DpoWorker}) as team:
        loading = team["reference"].start("load", job)
        told = replace(job, reference_ranks=tuple(team["reference"]._actor_handlers))
        outcome = follow(team["actor"], "train", told, recorder)
        check(loading)
        return outcome
