"""What an update's episodes and training come to, as numbers by name."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import torch

from aloe.training.ppo import guards

Response = dict[str, Any]
"""What `aloe.training.ppo.episode.Conversation` returns."""


def own_tokens_of(response: Response) -> list[bool]:
    """Of each token but the first whether the policy said it."""
    own = [False] * len(response["observation_tokens"])
    for start, end in response["action_ranges"]:
        own[start:end] = [True] * (end - start)
    return own[1:]


def reply_lengths(responses: Sequence[Response]) -> list[int]:
    """Tokens of each of the policy's replies."""
    return [end - start for response in responses for start, end in response["action_ranges"]]


def k3(one: torch.Tensor, other: torch.Tensor) -> float:
    """Estimate of the KL divergence from log-probs of tokens, never negative."""
    ratio = (one - other).double()
    return (ratio.exp() - 1 - ratio).mean().item()


def of_turns(rewards: torch.Tensor) -> dict[str, float]:
    """Mean reward of a reply, in all and by turn; turns that nobody reached are left out."""
    by_turn = {
        f"reward_turn_{turn}": column.nanmean().item()
        for turn, column in enumerate(rewards.unbind(1), start=1)
        if not column.isnan().all()
    }
    return {"reward": rewards.nanmean().item(), **by_turn}


def of_dialogues(responses: Sequence[Response]) -> dict[str, float]:
    """What dialogues look like: parts of the reward, lengths, and the guards' signs."""
    exchanges = [exchange for response in responses for exchange in response["exchanges"]]
    if not exchanges:
        return {}
    replies = [[e["reply"] for e in response["exchanges"]] for response in responses]
    return {
        **{
            f"reward_{name}": fmean(exchange["parts"][name] for exchange in exchanges)
            for name in exchanges[0]["parts"]
        },
        "length": fmean(reply_lengths(responses)),
        "turns": len(exchanges) / len(responses),
        "repetition": fmean(map(guards.repetition, replies)),
        "parroting": fmean(
            guards.parroting(said, json.loads(response["label"])["persona"])
            for said, response in zip(replies, responses, strict=True)
        ),
    }


_OURS = {
    "policy_loss": "loss",
    "kl": "kl",
    "entropy_loss": "entropy",
    "ppo_clip_ratio": "clip_ratio",
    "vllm_kl": "rollout_kl",
    "return": "return",
    "reward_model": "reward_model",
    "actor_lr": "learning_rate",
    "actor_grad_norm": "grad_norm",
    "critic_loss": "critic_loss",
    "values": "values",
}
"""OpenRLHF's name of a number -> ours."""


def of_training(status: Mapping[str, Any]) -> dict[str, float]:
    return {
        ours: float(status[theirs])
        for theirs, ours in _OURS.items()
        if status.get(theirs) is not None
    }
