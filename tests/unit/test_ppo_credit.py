"""Credit: which token gets which turn's reward, and what it is worth beside its group's."""

from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from aloe.training.ppo.credit import (
    GROUPED,
    baselined,
    credited,
    own_tokens,
    place,
    put_back,
    turn_ends,
    whiten,
)

NAN = float("nan")


@st.composite
def episodes(draw) -> tuple[torch.Tensor, torch.Tensor]:
    """A mask of up to 4 turns a row and a reward for each turn; NaN for turns that are not."""
    rows, most = draw(st.integers(1, 5)), 4
    masks, rewards = [], []
    for _ in range(rows):
        turns = draw(st.integers(0, most))
        row = [False] * draw(st.integers(1, 3))
        for _ in range(turns):
            row += [True] * draw(st.integers(1, 3)) + [False] * draw(st.integers(1, 3))
        masks.append(row)
        value = st.floats(-3, 3, width=32)
        rewards.append([draw(value) for _ in range(turns)] + [NAN] * (most - turns))
    longest = max(map(len, masks))
    mask = torch.tensor([row + [False] * (longest - len(row)) for row in masks])
    return mask, torch.tensor(rewards)


@given(episodes())
def test_each_reward_lands_on_its_turns_last_token(case):
    mask, rewards = case
    placed = place(rewards, mask)
    ends = turn_ends(mask)
    assert not placed[~ends].any()
    for row in range(len(mask)):
        there = rewards[row][~rewards[row].isnan()]
        assert torch.equal(placed[row][ends[row]], there)


NOBODY = torch.zeros(1, dtype=torch.bool)


@given(episodes(), st.sampled_from(["gae", "reinforce"]))
def test_the_sum_of_an_episode_lands_on_its_last_turn(case, estimator):
    _, rewards = case
    whole = rewards[~rewards.isnan().any(1)]
    assume(len(whole))
    silent = NOBODY.expand(len(whole))
    worth = credited(whole, silent, 1, estimator, "episode")
    assert torch.allclose(worth[:, -1], whole.sum(1), atol=1e-5)
    assert not worth[:, :-1].any()
    assert torch.equal(credited(whole, silent, 1, estimator, "turn"), whole)


@pytest.mark.parametrize("credit", ["turn", "episode"])
@pytest.mark.parametrize("estimator", [*GROUPED, "gae", "reinforce"])
def test_an_empty_reply_costs_what_the_episode_lost(estimator, credit):
    rewards = torch.tensor([[1.0, 1.0, 1.0], [1.0, 1.0, 1.0], [1.0, 0.0, NAN], [1.0, 1.0, 1.0]])
    silent = torch.tensor([False, False, True, False])
    worth = credited(rewards, silent, 4, estimator, credit)
    alone = credited(rewards, NOBODY.expand(4), 4, estimator, credit)
    assert not worth[2, 2]  # there is no token
    if estimator in GROUPED:
        assert worth[2].sum() <= alone[2].sum() < 0  # else only the empty reply itself pays
        if estimator != "group_norm":  # which scales the one that differs to the same length
            assert worth[2].sum() < alone[2].sum()
    else:
        assert worth[2].sum() == 1.0
        assert alone[2].sum() == 2.0


@pytest.mark.parametrize("credit", ["turn", "episode"])
@pytest.mark.parametrize("estimator", GROUPED)
def test_an_end_by_others_costs_nothing(estimator, credit):
    """Both did as well as the rest of the group, as long as they came."""
    rewards = torch.tensor([[0.5, 1.0, 1.0], [0.5, 1.0, NAN], [0.5, NAN, NAN], [0.5, 1.0, 1.0]])
    worth = credited(rewards, NOBODY.expand(4), 4, estimator, credit)
    assert torch.allclose(worth, torch.zeros(4, 3), atol=1e-6)


def test_an_end_by_others_counts_as_average_where_nothing_is_compared():
    rewards = torch.tensor([[1.0, 2.0], [1.0, NAN], [1.0, 4.0], [NAN, NAN]])
    worth = credited(rewards, NOBODY.expand(4), 1, "gae", "turn")
    assert worth.tolist() == [[1.0, 2.0], [4.0, 0.0], [1.0, 4.0], [0.0, 0.0]]


@given(episodes(), st.sampled_from([*GROUPED, "gae"]), st.sampled_from(["turn", "episode"]))
def test_nothing_is_credited_where_nothing_was_said(case, estimator, credit):
    mask, rewards = case
    silent = torch.arange(len(rewards)) % 2 == 0
    worth = credited(rewards, silent, len(rewards), estimator, credit)
    assert worth.isfinite().all()
    assert not worth[rewards.isnan()].any()
    assert torch.allclose(place(worth, mask).sum(1), worth.sum(1), atol=1e-4)


@pytest.mark.parametrize("samples", [4, 6])
def test_episodes_of_equal_sums_are_worth_nothing(samples):
    """The same rewards in another order: what rounding makes of them is no difference."""
    draw = torch.Generator().manual_seed(samples)
    for _ in range(50):
        values = torch.randint(0, 4, (5,), generator=draw) / 3
        order = [torch.randperm(5, generator=draw) for _ in range(samples)]
        rewards = torch.stack([values[places] for places in order])
        worth = credited(rewards, NOBODY.expand(samples), samples, "group_norm", "episode")
        assert worth.abs().max() < 1e-4


def test_an_episode_that_never_began_is_in_no_groups_deviation():
    rewards = torch.tensor([[1.0], [3.0], [NAN], [NAN]])
    worth = credited(rewards, NOBODY.expand(4), 4, "group_norm", "episode")[:2, 0]
    assert torch.allclose(worth, torch.tensor([-(0.5**0.5), 0.5**0.5]), atol=1e-5)


def test_summed_group_norm_gives_an_episode_mean_0_and_deviation_1():
    rewards = torch.randn(8, 3, generator=torch.Generator().manual_seed(1))
    worth = credited(rewards, NOBODY.expand(8), 4, "group_norm", "episode")[:, -1].view(2, 4)
    assert torch.allclose(worth.mean(1), torch.zeros(2), atol=1e-5)
    assert torch.allclose(worth.std(1), torch.ones(2), atol=1e-4)


@given(episodes())
def test_own_tokens_keep_their_order_and_come_back(case):
    mask, _ = case
    values = torch.arange(mask.numel(), dtype=torch.float32).view(mask.shape) + 1
    places, own = own_tokens(mask)
    together = values.gather(1, places) * own
    for row in range(len(mask)):
        assert torch.equal(together[row][own[row]], values[row][mask[row]])
        assert not own[row][int(mask[row].sum()) :].any()
    assert torch.equal(put_back(together, places, values), values * mask)


def test_groups_are_compared_turn_by_turn():
    rewards = torch.tensor([[1.0, 0.0], [0.0, NAN], [1.0, 1.0], [0.0, 0.0]])
    mean = baselined(rewards, 2, "reinforce_baseline")
    assert mean.tolist() == [[0.5, 0.0], [-0.5, 0.0], [0.5, 0.5], [-0.5, -0.5]]
    rloo = baselined(rewards, 2, "rloo")
    assert rloo.tolist() == [[1.0, 0.0], [-1.0, 0.0], [1.0, 1.0], [-1.0, -1.0]]
    assert baselined(rewards, 2, "gae").tolist() == rewards.nan_to_num().tolist()


@given(st.integers(2, 6), st.integers(1, 4), st.integers(0, 9))
def test_group_norm_gives_each_turn_mean_0_and_deviation_1(samples, turns, seed):
    rewards = torch.randn(3 * samples, turns, generator=torch.Generator().manual_seed(seed))
    normal = baselined(rewards, samples, "group_norm").view(3, samples, turns)
    assert torch.allclose(normal.mean(1), torch.zeros(3, turns), atol=1e-5)
    assert torch.allclose(normal.std(1), torch.ones(3, turns), atol=1e-4)


def test_rewards_that_hardly_differ_are_compared_exactly():
    rewards = torch.tensor([[0.5], [0.5 + 2**-16]])
    normal = baselined(rewards, 2, "group_norm")
    assert torch.allclose(normal, torch.tensor([[-(0.5**0.5)], [0.5**0.5]]), atol=1e-4)
    assert abs(normal.mean().item()) < 1e-6


def test_whitening_looks_at_the_policys_tokens_only():
    advantages = [torch.tensor([[1.0, 100.0, 3.0]]), torch.tensor([[5.0, 7.0]])]
    masks = [torch.tensor([[True, False, True]]), torch.tensor([[True, True]])]
    normal = torch.cat([a[m] for a, m in zip(whiten(advantages, masks), masks, strict=True)])
    assert normal.mean().item() == pytest.approx(0, abs=1e-6)
    assert normal.std(unbiased=False).item() == pytest.approx(1, abs=1e-5)
