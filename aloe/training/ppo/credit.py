"""Which token is credited with which reward. Plain tensors; nothing here knows OpenRLHF.

Rows are episodes. ``mask`` is True at the policy's own tokens: turn k is its k-th run of True, the
tokens between are the user's. Rewards are [rows, turns], NaN where an episode ended before.
"""

from __future__ import annotations

import torch

GROUPED = ("rloo", "reinforce_baseline", "group_norm", "dr_grpo")
"""Estimators of OpenRLHF that compare the episodes of a group."""
_CENTRED = {"group_norm": "dr_grpo"}
"""What is summed over turns before it is scaled."""


def turn_ends(mask: torch.Tensor) -> torch.Tensor:
    """True at the last token of each turn, bool [rows, tokens]."""
    after = torch.cat([mask[:, 1:], torch.zeros_like(mask[:, :1])], 1)
    return mask & ~after


def place(rewards: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Each turn's reward on that turn's last token, float [rows, tokens]; 0 elsewhere."""
    ends = turn_ends(mask)
    turn = (ends.cumsum(1) - 1).clamp(0, rewards.size(1) - 1)
    return torch.where(ends, rewards.nan_to_num().gather(1, turn), 0.0)


def credited(
    rewards: torch.Tensor, silent: torch.Tensor, samples: int, estimator: str, credit: str
) -> torch.Tensor:
    """What each turn is worth, and at an episode's last turn also what it lost by ending.

    An episode that the policy has ended by an empty reply pays for every turn that it lost: it is
    worth as little there as the worst reply of the batch, or nothing. One that a fault of others or
    the context's limit has ended pays nothing: it counts as average where it did not come (issue
    19).

    Args:
        rewards: [rows, turns]; rows are groups of ``samples`` next to each other.
        silent: bool [rows]: the episode's last reply is empty.
        estimator: of OpenRLHF; those without groups get rewards as they are.
        credit: turn or episode, see `aloe.config.PpoConfig`.

    Returns:
        [rows, turns], 0 where there is no turn.
    """
    there = ~rewards.isnan()
    # In float64, as in `baselined`: sums that are equal must not differ by their rounding.
    known = torch.where(~there & silent[:, None], _worst(rewards), rewards).double()
    if estimator not in GROUPED:
        known = torch.where(known.isnan(), known.nanmean(0).nan_to_num(), known)
    if credit == "episode":
        lost = baselined(known, samples, _CENTRED.get(estimator, estimator)).sum(1, keepdim=True)
        if estimator == "group_norm":
            lost = _scaled(lost.view(-1, samples), there.any(1).view(-1, samples)).view(-1, 1)
        worth = torch.zeros_like(known)
    else:
        worth = baselined(known, samples, estimator)
        lost = (worth * ~there).sum(1, keepdim=True)
    last = (there.sum(1, keepdim=True) - 1).clamp(min=0)
    return ((worth * there).scatter_add(1, last, lost) * there).to(rewards.dtype)


def _scaled(sums: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
    """Numbers of each group by their deviation, float64 [groups, samples]; absent ones apart."""
    count = there.sum(1, keepdim=True)
    mean = (sums * there).sum(1, keepdim=True) / count.clamp(min=1)
    squares = ((sums - mean) * there).square().sum(1, keepdim=True)
    return sums / ((squares / (count - 1).clamp(min=1)).sqrt() + 1e-9)


def _worst(rewards: torch.Tensor) -> torch.Tensor:
    """The least reward of the batch, at most 0; a scalar."""
    return rewards.nan_to_num().min().clamp(max=0)


def baselined(rewards: torch.Tensor, samples: int, estimator: str) -> torch.Tensor:
    """What a reward is worth beside those of the same turn in the other episodes of its group.

    Args:
        rewards: [groups * samples, turns], the samples of a group next to each other.
        samples: episodes with the same persona and first message.
        estimator: of OpenRLHF; those without groups leave rewards as they are.

    Returns:
        [groups * samples, turns], 0 where there is no reward.
    """
    # In float64: what is left of nearly equal float32 rewards is mostly their rounding.
    group = rewards.double().view(-1, samples, rewards.size(1))
    count = (~group.isnan()).sum(1, keepdim=True)
    mean = group.nanmean(1, keepdim=True)
    if estimator == "rloo":
        others = (group.nansum(1, keepdim=True) - group) / (count - 1).clamp(min=1)
        group = torch.where(count > 1, group - others, 0.0 * group)
    elif estimator in ("reinforce_baseline", "dr_grpo"):
        group = group - mean
    elif estimator == "group_norm":
        variance = (group - mean).square().nansum(1, keepdim=True) / (count - 1).clamp(min=1)
        group = (group - mean) / (variance.sqrt() + 1e-9)
    return group.reshape(rewards.shape).nan_to_num().to(rewards.dtype)


def own_tokens(mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Where the policy's tokens are, moved together: what the user said takes no time.

    Discounts and the critic's bootstrap go from one of the policy's tokens to its next, also across
    the user's words, of which the critic has no value.

    Returns:
        Positions, int64 [rows, most], and which of them are the policy's, bool [rows, most].
    """
    order = torch.argsort((~mask).long(), dim=1, stable=True)
    places = order[:, : max(1, int(mask.sum(1).max()))]
    return places, mask.gather(1, places)


def put_back(values: torch.Tensor, places: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Undo `own_tokens`: values at their positions, 0 elsewhere; shaped as ``like``."""
    return torch.zeros_like(like).scatter(1, places, values)


def whiten(
    advantages: list[torch.Tensor], masks: list[torch.Tensor], scale: bool = True
) -> list[torch.Tensor]:
    """Advantages of mean 0 and (``scale``) deviation 1 over all of the policy's tokens."""
    flat = torch.cat([part[mask] for part, mask in zip(advantages, masks, strict=True)]).float()
    mean = flat.mean()
    factor = flat.var(unbiased=False).clamp(min=1e-8).rsqrt() if scale else 1.0
    return [(part - mean) * factor for part in advantages]
