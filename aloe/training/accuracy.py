"""What is reported about preference pairs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def wilson_interval(share: float, trials: int, z: float = 1.959964) -> list[float]:
    """Wilson's score interval of a binomial share (Wilson 1927); the default z covers 95 %.

    Unlike the normal approximation it holds for few trials and for shares near 0 and 1.
    """
    spread = z * z / trials
    centre = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt(share * (1 - share) / trials + spread / trials / 4)
    return [max(0.0, centre - half), min(1.0, centre + half)]


def pair_statistics(
    policy: torch.Tensor,
    reference: torch.Tensor,
    tokens: torch.Tensor,
    turns: Sequence[int],
    loss_fn: torch.nn.Module,
) -> dict[str, float]:
    """Loss and accuracies over pairs.

    Args:
        policy: summed log-probs of the replies under the policy, float [pairs, 2]; column 0 is
            the preferred one.
        reference: the same under the frozen reference.
        tokens: lengths of the replies, end of turn included, [pairs, 2].
        turns: turn of each pair in its dialogue, from 1.
        loss_fn: `openrlhf.models.DPOLoss`.

    Returns:
        loss: mean DPO loss.
        accuracy_logprob: share of pairs whose preferred reply has the higher mean log-prob per
            token under the policy. No reference is involved, and length gives no advantage.
        accuracy_reward: share of pairs with a positive margin of implicit rewards
            beta * (policy - reference) (DPO, arXiv 2305.18290, section 4).
        margin: mean of those margins; 0 while the policy is the reference. ``margin_turn_k``: the
            same of the pairs of turn k (`margins_by_turn`).
    """
    loss, preferred, rejected = loss_fn(
        policy[:, 0], policy[:, 1], reference[:, 0], reference[:, 1]
    )
    per_token = policy / tokens
    return {
        "loss": loss.item(),
        "accuracy_logprob": (per_token[:, 0] > per_token[:, 1]).double().mean().item(),
        "accuracy_reward": (preferred > rejected).double().mean().item(),
        "margin": (preferred - rejected).mean().item(),
        **margins_by_turn(preferred - rejected, turns),
    }


def margins_by_turn(margins: torch.Tensor, turns: Sequence[int]) -> dict[str, float]:
    """Mean margin of the pairs of each turn, by ``margin_turn_k``.

    Args:
        margins: reward of the preferred reply less that of the rejected one, float [pairs].
        turns: turn of each pair in its dialogue, from 1.
    """
    by_turn: dict[int, list[float]] = {}
    for turn, margin in zip(turns, margins.tolist(), strict=True):
        by_turn.setdefault(turn, []).append(margin)
    return {f"margin_turn_{turn}": fmean(found) for turn, found in sorted(by_turn.items())}
