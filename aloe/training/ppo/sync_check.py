"""Whether the engines speak with the weights that are trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ray
import torch

from aloe.training.ppo.numbers import Response, k3, own_tokens_of


def compare(
    responses: Sequence[Response],
    engines: Sequence[Any],
    policy: Any,
    tempered: bool,
    longest: int,
) -> dict[str, float]:
    """How far each engine is from the trainer now, and how far the trainer has moved.

    Args:
        responses: episodes of before the last sync, on which both are asked.
        engines: rollout engines.
        policy: the group of the policy's ranks.
        tempered: episodes were sampled at another temperature than 1: their log-probs are no
            measure of how far the policy has moved.
        longest: tokens of an episode that are asked about.

    Returns:
        ``sync_kl``, the largest over the engines, and ``sync_moved``; both nats a token of the
        policy's own, by the estimator k3, which is never negative.
    """
    rows = [response["observation_tokens"][:longest] for response in responses]
    asked = [[engine.log_probs.remote(row) for row in rows] for engine in engines]
    trainer = ray.get(policy.async_run_method("probe", rows))[0]
    own = [torch.tensor(own_tokens_of(response)[: longest - 1]) for response in responses]

    def of_policy(values: Sequence[Any]) -> torch.Tensor:
        return torch.cat([torch.as_tensor(v)[mask] for v, mask in zip(values, own, strict=True)])

    mine = of_policy(trainer)
    found = {"sync_kl": max(k3(mine, of_policy(ray.get(answers))) for answers in asked)}
    if not tempered:
        sampled = of_policy([response["rollout_log_probs"][1:longest] for response in responses])
        found["sync_moved"] = k3(mine, sampled)
    return found
