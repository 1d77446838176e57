"""Episodes as tokens: what the engine has heard is what the chat template would have written."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from aloe.engines.embedded import resolve_checkpoint
from aloe.training.accelerator import prepare

prepare()

from aloe.config import PpoConfig  # noqa: E402
from aloe.training.ppo.episode import Start  # noqa: E402
from aloe.training.ppo.experience import EpisodeReader, turn_rewards  # noqa: E402
from aloe.training.ppo.numbers import of_dialogues  # noqa: E402
from aloe.training.ppo.rollouts import Rollouts  # noqa: E402

PLAIN = st.text(st.characters(codec="utf-8", exclude_characters="<|>\u241e"), max_size=40)


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(resolve_checkpoint("embedded://tiny"))


def response(turns: list[tuple[list[int], float]]) -> dict:
    """An episode of a prompt of three tokens; each reply is followed by two of the user's."""
    ids, ranges, log_probs = [1, 2, 3], [], [0.0] * 3
    for reply, _ in turns:
        ranges.append((len(ids), len(ids) + len(reply)))
        ids += [*reply, 8, 8]
        log_probs += [-0.5] * len(reply) + [0.0, 0.0]
    start = Start("p", [], {"persona_id": "a", "profile": "", "personality": ""}, 0, 1.0)
    return {
        "prompt": "p",
        "label": start.label(),
        "reward": 0.0,
        "scores": 0.0,
        "observation_tokens": ids,
        "action_ranges": ranges,
        "rollout_log_probs": log_probs,
        "truncated": False,
        "extra_logs": {},
        "exchanges": [
            {"user": "u", "reply": "word", "parts": {"verifiable": value}} for _, value in turns
        ],
        "calls": [],
        "error": None,
    }


def test_an_experience_masks_all_that_the_user_said():
    options = PpoConfig(turns=3, batch_size=4, rewards={"verifiable": 2.0})
    reader = EpisodeReader.__new__(EpisodeReader)
    found = reader.read(response([([5, 6], 0.5), ([7], 1.0)]), options)
    assert found.sequences.tolist() == [[1, 2, 3, 5, 6, 8, 8, 7, 8, 8]]
    # Of each token but the first whether it is the policy's.
    assert found.action_mask.tolist() == [[0, 0, 1, 1, 0, 0, 1, 0, 0]]
    assert found.rollout_log_probs.tolist() == [[0, 0, -0.5, -0.5, 0, 0, -0.5, 0, 0]]
    rewards = found.info["turn_rewards"]
    assert rewards[0, :2].tolist() == [1.0, 2.0]
    assert rewards[0, 2].isnan()


def test_an_episode_that_failed_at_once_teaches_nothing():
    options = PpoConfig(turns=2, batch_size=4)
    reader = EpisodeReader.__new__(EpisodeReader)
    found = reader.read(response([]), options)
    assert not found.action_mask.any()
    assert found.info["turn_rewards"].isnan().all()
    assert turn_rewards([], options).isnan().all()
    assert of_dialogues([response([])]) == {}


def test_signs_are_those_of_the_dialogues():
    found = of_dialogues([response([([5, 6], 0.5), ([7], 1.0)]), response([([5], 0.0)])])
    assert found["reward_verifiable"] == pytest.approx(0.5)
    assert found["length"] == pytest.approx(4 / 3)
    assert found["turns"] == pytest.approx(1.5)
    assert torch.isfinite(torch.tensor(list(found.values()))).all()


@given(prompts=st.integers(1, 9), groups=st.integers(1, 4), seed=st.integers(0, 99))
def test_all_prompts_are_played_before_one_comes_again(prompts, groups, seed):
    persona = dict.fromkeys(("profile", "personality"), "") | {"persona_id": "a"}
    persona |= {"preferences": None, "twin_id": None}
    rows = [{"prompt_id": str(i), "prompt": [], **persona} for i in range(prompts)]
    options = PpoConfig(batch_size=2 * groups, samples=2)
    rollouts = Rollouts(options, seed, {"train": rows, "validation": rows}, [])
    updates = [rollouts.of_update(step) for step in range(2 * prompts)]
    assert updates[1] == Rollouts(options, seed, {"train": rows}, []).of_update(1)
    for starts in updates:
        ids = [start.prompt_id for start in starts]
        assert ids[::2] == ids[1::2]  # the samples of a prompt are next to each other
    played = [start.prompt_id for starts in updates for start in starts[::2]]
    for begin in range(0, len(played) - prompts + 1, prompts):
        assert len(set(played[begin : begin + prompts])) == prompts
    seeds = [start.seed for starts in updates for start in starts]
    assert len(set(seeds)) == len(seeds)
    looks = rollouts.held_out(4)
    assert looks == rollouts.held_out(4)
    assert [start.prompt_id for start in looks] == [str(i % prompts) for i in range(4)]
