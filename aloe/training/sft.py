"""Supervised fine-tuning on the preferred replies (method: training, SFT)."""

from __future__ import annotations

from typing import Any

from aloe.config import Config
from aloe.schema import SFT
from aloe.storage import Manifest, Store
from aloe.training.data import SFT_FILE
from aloe.training.stage import run_stage


def train_sft(config: Config, store: Store) -> Manifest:
    """Fine-tune ``training.base`` on ``preferences/sft.parquet``.

    The loss is taken on the reply and its end of turn only. Writes ``training/sft/``:
    ``checkpoint/`` (a Hugging Face folder), ``metrics.parquet`` and ``manifest.json``, whose
    results hold the mean negative log-prob per token before and after, on held-out rows
    (``loss_*``) and on training rows (``train_loss_*``).

    Raises:
        UserError: see `aloe.training.stage.run_stage`.
    """
    return run_stage(
        config,
        store,
        "sft",
        config.training.sft,
        checkpoint=config.training.base,
        after=["preferences"],
        data=(SFT_FILE, SFT),
        worker=_worker,
    )


def _worker() -> Any:
    from aloe.training.sft_worker import SftWorker

    return SftWorker
