"""A reward model on the preference pairs, for PPO and for judging replies."""

from __future__ import annotations

from aloe.config import Config
from aloe.errors import UserError
from aloe.schema import PAIRS
from aloe.storage import Manifest, Store
from aloe.training.data import PAIRS_FILE
from aloe.training.launch import follow, teams
from aloe.training.protocol import Job, Outcome
from aloe.training.recorder import Recorder
from aloe.training.stage import before, run_stage


def train_reward(config: Config, store: Store) -> Manifest:
    """Train a reward model on ``preferences/pairs.parquet``: a head on the last token of a reply.

    Writes ``training/reward/``: ``checkpoint/`` (read by OpenRLHF's
    `get_llm_for_sequence_regression`; mean and deviation of the held-out rewards are in its
    ``config.json``), ``metrics.parquet``, ``tensorboard/`` and ``manifest.json``. Its results on
    held-out pairs are ``loss_*`` (Bradley-Terry) and ``accuracy_*``, the share of pairs whose
    preferred reply has the higher reward, with 95 % Wilson intervals; ``train_loss_*`` are on
    training pairs. Before training the head is random.

    Raises:
        UserError: ``training.reward`` is not set; see also `aloe.training.stage.run_stage`.
    """
    options = config.training.reward
    if options is None:
        raise UserError("training.reward: not set; expected its settings, or {} for the defaults")
    return run_stage(
        config,
        store,
        "reward",
        options,
        after=["preferences", *before(options.start_from)],
        data=(PAIRS_FILE, PAIRS),
        run=_run,
        start=options.start_from,
    )


def _run(config: Config, job: Job, recorder: Recorder) -> Outcome:
    from aloe.training.reward_worker import RewardWorker

    with teams(config, {"reward": RewardWorker}) as team:
        return follow(team["reward"], "train", job, recorder)
