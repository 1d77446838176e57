"""The policy of PPO packed against OpenRLHF's own, on random episodes that begin alike."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_llama import assert_equal_gradients, small_llama

from aloe.training.accelerator import prepare

prepare()

from openrlhf.models import Actor  # noqa: E402

from aloe.training.ppo.episode_actor import EpisodeActor  # noqa: E402

VOCABULARY = 41


@pytest.fixture(scope="module")
def model():
    return small_llama(VOCABULARY)


def actors(model, temperature: float) -> tuple[Actor, EpisodeActor]:
    plain, packed = Actor(model), EpisodeActor(model)
    for actor in (plain, packed):
        actor.temperature, actor.packing_samples = temperature, False
    return plain, packed


def episodes(seed: int) -> dict[str, torch.Tensor]:
    """Up to five episodes of one or two prompts; what the policy and what the user said in turn."""
    draw = random.Random(seed)

    def words(most: int) -> list[int]:
        return [draw.randrange(VOCABULARY) for _ in range(draw.randint(1, most))]

    prompts = [words(10) for _ in range(2)]
    rows, masks = [], []
    for _ in range(draw.randint(1, 5)):
        ids = list(draw.choice(prompts))
        own = [0] * len(ids)
        for _ in range(draw.randint(1, 4)):
            reply, user = words(6), words(5)
            ids += reply + user
            own += [1] * len(reply) + [0] * len(user)
        rows.append(ids)
        masks.append(own)
    longest = max(map(len, rows)) + draw.randrange(3)

    def padded(values: list[int]) -> list[int]:
        return values + [0] * (longest - len(values))

    return {
        "sequences": torch.tensor([padded(row) for row in rows]),
        "attention_mask": torch.tensor([padded([1] * len(row)) for row in rows]),
        "action_mask": torch.tensor([padded(mask)[1:] for mask in masks]),
    }


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([1.0, 0.7]))
@torch.no_grad()
def test_log_probs_and_entropies_are_openrlhfs(model, seed, temperature):
    batch = episodes(seed)
    (mine, output), (theirs, expected) = (
        actor(**batch, return_output=True, return_entropy=True)
        for actor in reversed(actors(model, temperature))
    )
    torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=0)
    own = batch["action_mask"].bool()
    torch.testing.assert_close(output.entropy[own], expected.entropy[own], atol=1e-4, rtol=0)


@pytest.mark.parametrize("seed", range(10))
def test_so_are_the_gradients(model, seed):
    batch = episodes(seed)

    def loss(actor):
        log_probs, output = actor(**batch, return_output=True, return_entropy=True)
        return log_probs.exp().sum() + (output.entropy * batch["action_mask"]).sum()

    plain, packed = actors(model, 1.0)
    assert_equal_gradients(model, lambda: loss(plain), lambda: loss(packed))


@torch.no_grad()
def test_all_tokens_are_answered_where_no_action_is_named(model):
    batch = episodes(3)
    del batch["action_mask"]
    plain, packed = actors(model, 1.0)
    found = packed(**batch)
    expected = plain(**batch, return_logprobs=True)
    there = batch["attention_mask"][:, 1:].bool()
    torch.testing.assert_close(found[there], expected[there], atol=1e-4, rtol=0)
