"""Direct preference optimisation (arXiv 2305.18290) on replies in their true history."""

from __future__ import annotations

from typing import Any

from aloe.config import Config
from aloe.schema import PAIRS
from aloe.storage import Manifest, Store
from aloe.training.data import PAIRS_FILE
from aloe.training.stage import run_stage


def train_dpo(config: Config, store: Store) -> Manifest:
    """Optimise a checkpoint on ``preferences/pairs.parquet``; the checkpoint is also the reference.

    Writes ``training/dpo/``: ``checkpoint/`` (a Hugging Face folder), ``metrics.parquet`` and
    ``manifest.json``. Its results on held-out pairs are ``loss_*``, ``accuracy_*`` (by mean
    log-prob per token) and ``reward_accuracy_after`` (by implicit reward), as
    `aloe.training.accuracy.pair_statistics` defines them, with 95 % Wilson intervals;
    ``train_loss_*`` are on training pairs.

    Raises:
        UserError: see `aloe.training.stage.run_stage`.
    """
    from_sft = config.training.dpo.start_from == "sft"
    return run_stage(
        config,
        store,
        "dpo",
        config.training.dpo,
        checkpoint=store.url("training/sft/checkpoint") if from_sft else config.training.base,
        after=["preferences", "training/sft"] if from_sft else ["preferences"],
        data=(PAIRS_FILE, PAIRS),
        worker=_worker,
    )


def _worker() -> Any:
    from aloe.training.dpo_worker import DpoWorker

    return DpoWorker
