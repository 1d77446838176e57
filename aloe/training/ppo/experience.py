"""From conversations to OpenRLHF's experiences, with a reward for each turn.

Import after `aloe.training.accelerator.prepare`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from openrlhf.trainer.ppo_utils.experience import Experience
from openrlhf.trainer.ppo_utils.experience_maker import RemoteExperienceMaker
from openrlhf.trainer.ppo_utils.samples_generator import SamplesGenerator

from aloe.config import PpoConfig
from aloe.training.ppo.credit import credited, own_tokens, place, put_back, turn_ends, whiten
from aloe.training.ppo.numbers import Response

WHITENED = ("gae", "reinforce", "reinforce_baseline")
"""Estimators whose advantages OpenRLHF normalises over the batch."""


class EpisodeReader(SamplesGenerator):  # type: ignore[misc]
    """OpenRLHF's generator, which here only turns responses into experiences."""

    def read(self, response: Response, options: PpoConfig) -> Experience:
        """An experience of one row.

        Its ``info`` has ``turn_rewards``, float [1, turns], and ``silent``, float [1]: 1 if the
        policy has ended the episode by an empty reply.
        """
        if not response["action_ranges"]:  # the first call failed: nothing to learn from
            ids = response["observation_tokens"]
            response = response | {"action_ranges": [(len(ids), len(ids))]}
        experience = self._process_response_into_experience(response, max_len=options.max_len)
        exchanges = response["exchanges"]
        experience.info = {
            "turn_rewards": turn_rewards(exchanges, options)[None],
            "silent": torch.tensor([float(bool(exchanges) and not exchanges[-1]["reply"])]),
        }
        # The reward model's part comes later; what is not None is not asked for by OpenRLHF.
        experience.rewards = torch.zeros(1)
        return experience


def turn_rewards(exchanges: Sequence[dict[str, Any]], options: PpoConfig) -> torch.Tensor:
    """Weighted rewards, all but the reward model's, float [turns]; NaN after the episode."""
    weights = options.rewards.model_dump()
    found = torch.full((options.turns,), float("nan"))
    for turn, exchange in enumerate(exchanges):
        found[turn] = sum(weights[name] * value for name, value in exchange["parts"].items())
    return found


class TurnExperienceMaker(RemoteExperienceMaker):  # type: ignore[misc]
    """OpenRLHF's maker of experiences, with credit for each turn.

    Theirs adds up an episode's rewards and puts the sum on its last token, and its discounts and
    values also count the tokens of the user.
    """

    options: PpoConfig
    turn_rewards: torch.Tensor
    """Of the last batch, weighted and summed, float [episodes, turns]; NaN for no turn."""

    def ask_reward_model(self, samples: Sequence[Experience]) -> torch.Tensor:
        """The reward model's number for each turn, float [episodes, turns]; NaN for no turn."""
        lengths = [_lengths(sample.action_mask, self.options.turns) for sample in samples]
        refs = self.reward_model_group.async_run_method_batch(
            method_name="turn_rewards",
            sequences=[sample.sequences for sample in samples],
            lengths=lengths,
        )
        return torch.cat(self._flatten_results(refs, 1))

    @torch.no_grad()
    def make_experience(self, samples_list: list[Experience]) -> list[Experience]:
        """Log-probs of policy and reference, values, and what the reward model adds."""
        experiences: list[Experience] = super().make_experience(samples_list)
        if self.reward_model_group is not None:
            numbers = self.ask_reward_model(experiences)
            sizes = [len(experience.sequences) for experience in experiences]
            for experience, part in zip(experiences, numbers.split(sizes), strict=True):
                experience.info["turn_rewards"] += self.options.rewards.model * part
                experience.info["reward_model"] = part.nanmean(1).nan_to_num()
        return experiences

    @torch.no_grad()
    def compute_advantages_and_returns(self, experiences: list[Experience]) -> list[Experience]:
        """Advantages and returns at the policy's own tokens; 0 at all others."""
        options = self.options
        sizes = [len(experience.sequences) for experience in experiences]
        rewards = torch.cat([e.info.pop("turn_rewards") for e in experiences])
        silent = torch.cat([e.info.pop("silent") for e in experiences]).bool()
        self.turn_rewards = rewards
        worth = credited(rewards, silent, options.samples, options.estimator, options.credit)
        for experience, mine, raw in zip(
            experiences, worth.split(sizes), rewards.split(sizes), strict=True
        ):
            mask = experience.action_mask.bool()
            tokens = place(mine, mask) - self.kl_ctl.value * experience.kl * mask
            places, own = own_tokens(mask)
            if options.estimator == "gae":
                advantages, returns = self.get_advantages_and_returns(
                    experience.values.gather(1, places),
                    tokens.gather(1, places),
                    own,
                    options.gamma,
                    options.lambd,
                )
            else:
                returns = self.get_cumulative_returns(tokens.gather(1, places), own, options.gamma)
                advantages = returns.clone()
            experience.advantages = put_back(advantages * own, places, tokens)
            experience.returns = put_back(returns * own, places, tokens)
            experience.rewards = raw.nansum(1)
            experience.info["reward"] = experience.rewards
            experience.info["return"] = tokens.sum(1)
            experience.kl = None
        if options.estimator in WHITENED:
            masks = [experience.action_mask.bool() for experience in experiences]
            normal = whiten([experience.advantages for experience in experiences], masks)
            for experience, advantages in zip(experiences, normal, strict=True):
                experience.advantages = advantages
        return experiences


def _lengths(action_mask: torch.Tensor, turns: int) -> torch.Tensor:
    """Tokens up to the end of each turn, int64 [episodes, turns]; 0 where there is no turn."""
    ends = turn_ends(action_mask.bool())
    found = torch.zeros(len(ends), turns, dtype=torch.long)
    for row, end in enumerate(ends):
        places = end.nonzero()[:turns, 0]
        found[row, : len(places)] = places + 2  # an action's mask begins at the second token
    return found
