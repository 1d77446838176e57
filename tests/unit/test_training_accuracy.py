"""Wilson's interval and the statistics of preference pairs."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aloe.training.accuracy import pair_statistics, wilson_interval


def test_wilson_interval_of_eight_in_ten():
    assert wilson_interval(0.8, 10) == pytest.approx([0.4901625, 0.9433178], abs=1e-6)


@settings(deadline=None)
@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_interval_holds_the_share_and_stays_in_bounds(case):
    successes, trials = case
    low, high = wilson_interval(successes / trials, trials)
    assert 0 <= low <= successes / trials + 1e-12
    assert successes / trials - 1e-12 <= high <= 1
    assert high - low > 0


def dpo_loss(beta: float):
    """The loss of arXiv 2305.18290, equation 7, written down once more."""
    import torch

    def loss(preferred, rejected, reference_preferred, reference_rejected):
        a, b = beta * (preferred - reference_preferred), beta * (rejected - reference_rejected)
        return -torch.nn.functional.logsigmoid(a - b).mean(), a, b

    return loss


def test_pair_statistics_by_hand():
    import torch

    reference = torch.tensor([[-10.0, -10.0], [-20.0, -4.0]])
    policy = torch.tensor([[-8.0, -11.0], [-20.0, -3.0]])
    tokens = torch.tensor([[10, 10], [20, 2]])
    found = pair_statistics(policy, reference, tokens, [1, 3], dpo_loss(0.5))
    margins = [0.5 * 3, 0.5 * -1]
    assert found["margin"] == pytest.approx(sum(margins) / 2)
    assert (found["margin_turn_1"], found["margin_turn_3"]) == pytest.approx(tuple(margins))
    assert found["accuracy_reward"] == 0.5
    # Per token: -0.8 against -1.1, and -1 against -1.5, although -20 is below -3 in sum.
    assert found["accuracy_logprob"] == 1.0
    assert found["loss"] == pytest.approx(sum(math.log1p(math.exp(-m)) for m in margins) / 2)


def test_a_policy_that_is_its_reference_has_loss_ln2_and_no_margin():
    import torch

    scores = torch.randn(6, 2, dtype=torch.float64)
    found = pair_statistics(scores, scores, torch.ones(6, 2), [1] * 6, dpo_loss(0.9))
    assert found["loss"] == pytest.approx(math.log(2))
    assert found["margin"] == 0
