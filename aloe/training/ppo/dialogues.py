"""Dialogues with held-out personas as rows, for the report."""

from __future__ import annotations

import json
from collections.abc import Sequence

import torch

from aloe.schema import DIALOGUES
from aloe.storage import Store
from aloe.training.ppo.numbers import Response


def write_dialogues(
    store: Store,
    folder: str,
    step: int,
    responses: Sequence[Response],
    rewards: torch.Tensor,
    of_model: torch.Tensor,
) -> None:
    """Write ``folder/dialogues/<step>.parquet``, rows of `aloe.schema.DIALOGUES`.

    Args:
        rewards: weighted and summed, float [dialogues, turns].
        of_model: the reward model's part, NaN where it is not asked; of the same shape.
    """
    rows = [
        {
            "step": step,
            "dialogue": number,
            **json.loads(response["label"])["persona"],
            "turn": turn + 1,
            "user": exchange["user"],
            "reply": exchange["reply"],
            "reward": rewards[number, turn].item(),
            "reward_verifiable": exchange["parts"].get("verifiable"),
            "reward_judge": exchange["parts"].get("judge"),
            "reward_model": None
            if of_model[number, turn].isnan()
            else of_model[number, turn].item(),
        }
        for number, response in enumerate(responses)
        for turn, exchange in enumerate(response["exchanges"])
    ]
    store.write_table(f"{folder}/dialogues/{step:06d}.parquet", rows, DIALOGUES)
