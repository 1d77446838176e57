"""Supervised fine-tuning on the preferred replies (method: training, SFT)."""

from __future__ import annotations

from aloe.config import Config
from aloe.schema import SFT
from aloe.storage import Manifest, Store
from aloe.training.data import SFT_FILE
from aloe.training.launch import follow, teams
from aloe.training.protocol import Job, Outcome
from aloe.training.recorder import Recorder
from aloe.training.stage import run_stage


def train_sft(config: Config, store: Store) -> Manifest:
    """Fine-tune ``training.base`` on ``preferences/sft.parquet``.

    The loss is taken on the reply and its end of turn only. Writes ``training/sft/``:
    ``checkpoint/`` (a Hugging Face folder), ``metrics.parquet``, ``tensorboard/`` and
    ``manifest.json``, whose results hold the mean negative log-prob per token before and after, on
    held-out rows (``loss_*``) and on training rows (``train_loss_*``).

    Raises:
        UserError: see `aloe.training.stage.run_stage`.
    """
    return run_stage(
        config,
        store,
        "sft",
        config.training.sft,
        after=["preferences"],
        data=(SFT_FILE, SFT),
        run=_run,
    )


def _run(config: Config, job: Job, recorder: Recorder) -> Outcome:
    from aloe.training.sft_worker import SftWorker

    with teams(config, {"actor": SftWorker}) as team:
        return follow(team["actor"], "train", job, recorder)
