"""Advantages: OpenRLHF's own with one turn; with several, each reward stays in its turn."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from aloe.config import PpoConfig
from aloe.training.accelerator import prepare

prepare()

from openrlhf.trainer.ppo_utils.experience import Experience  # noqa: E402
from openrlhf.trainer.ppo_utils.experience_maker import RemoteExperienceMaker  # noqa: E402

from aloe.training.ppo.arguments import ppo_arguments  # noqa: E402
from aloe.training.ppo.credit import turn_ends  # noqa: E402
from aloe.training.ppo.experience import TurnExperienceMaker  # noqa: E402

ESTIMATORS = ("gae", "reinforce", "reinforce_baseline", "rloo", "group_norm", "dr_grpo")


def maker(kind: type, options: PpoConfig) -> Any:
    arguments = ppo_arguments(options, 0, 1, False)
    arguments.reward = SimpleNamespace(
        clip_range=None, overlong_buffer_len=None, stop_properly_penalty_coef=None
    )
    arguments.algo.advantage.no_std_norm = False
    arguments.data = SimpleNamespace(max_len=64)
    made = kind(
        None,
        None,
        None,
        None,
        SimpleNamespace(value=options.kl_coef),
        SimpleNamespace(args=arguments),
        None,
    )
    made.options = options
    return made


def experiences(runs: list[list[tuple[int, int]]], turns: int, seed: int = 0) -> list[Experience]:
    """Two batches of as many rows each; runs of own tokens by row, 16 tokens a row."""
    torch.manual_seed(seed)
    mask = torch.zeros(len(runs), 15, dtype=torch.long)
    rewards = torch.full((len(runs), turns), float("nan"))
    for row, spans in enumerate(runs):
        for turn, (start, end) in enumerate(spans):
            mask[row, start:end] = 1
            rewards[row, turn] = torch.rand(())
    half = len(runs) // 2
    return [
        Experience(
            sequences=torch.zeros(half, 16, dtype=torch.long),
            action_mask=mask[part],
            values=torch.randn(half, 15),
            kl=torch.randn(half, 15),
            rewards=rewards[part].nansum(1),
            index=list(range(part.start, part.stop)),
            info={"turn_rewards": rewards[part], "silent": torch.zeros(half)},
        )
        for part in (slice(0, half), slice(half, 2 * half))
    ]


ONE_TURN = [[(4, 9)], [(3, 4)], [(7, 15)], [(2, 11)]]


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_one_turn_is_openrlhfs_own(estimator):
    options = PpoConfig(
        estimator=estimator, samples=2, batch_size=4, turns=1, lambd=0.9, gamma=1.0, kl_coef=0.05
    )
    ours = experiences(ONE_TURN, 1)
    theirs = copy.deepcopy(ours)
    for experience in theirs:
        experience.info.clear()
    maker(TurnExperienceMaker, options).compute_advantages_and_returns(ours)
    maker(RemoteExperienceMaker, options).compute_advantages_and_returns(theirs)
    for mine, other in zip(ours, theirs, strict=True):
        own = mine.action_mask.bool()
        assert torch.allclose(mine.advantages[own], other.advantages[own], atol=1e-5)
        assert torch.allclose(mine.returns[own], other.returns[own], atol=1e-5)


@pytest.mark.parametrize("credit", ["turn", "episode"])
def test_a_turns_reward_reaches_it_and_earlier_turns_only(credit):
    runs = [[(2, 4), (6, 8), (10, 13)]] * 4
    options = PpoConfig(
        estimator="gae", samples=1, batch_size=4, turns=3, lambd=0.95, kl_coef=0, credit=credit
    )
    base = experiences(runs, 3)
    changed = copy.deepcopy(base)
    for experience in changed:
        experience.info["turn_rewards"][:, 1] += 10.0
    made = maker(TurnExperienceMaker, options)
    for batch in (base, changed):
        made.compute_advantages_and_returns(batch)
    for before, after in zip(base, changed, strict=True):
        moved = (after.returns - before.returns).abs() > 1e-4
        own = before.action_mask.bool()
        turn = turn_ends(own).cumsum(1) - turn_ends(own).long()
        assert not moved[~own].any()  # never on the user's words
        assert moved[own & (turn <= 1)].all()
        assert moved[own & (turn == 2)].all() == (credit == "episode")


def test_the_users_words_take_no_time():
    """The same turns with more of the user's words in between are worth the same."""
    options = PpoConfig(estimator="gae", samples=1, batch_size=2, turns=2, gamma=0.9, lambd=0.8)
    near, far = experiences([[(2, 4), (5, 7)]] * 2, 2), experiences([[(2, 4), (11, 13)]] * 2, 2)
    for batch in (near, far):
        for experience in batch:
            own = experience.action_mask.bool()
            experience.values[own] = torch.tensor([0.1, 0.2, 0.3, 0.4])
            experience.kl[own] = torch.tensor([0.0, 0.1, 0.0, 0.2])
            experience.info["turn_rewards"][:] = torch.tensor([1.0, 0.5])
    made = maker(TurnExperienceMaker, options)
    for batch in (near, far):
        made.compute_advantages_and_returns(batch)
    for one, other in zip(near, far, strict=True):
        for name in ("returns", "advantages"):
            mine = getattr(one, name)[one.action_mask.bool()]
            assert torch.allclose(mine, getattr(other, name)[other.action_mask.bool()], atol=1e-6)
