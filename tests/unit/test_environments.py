"""Twins as environments for other libraries; that for verifiers is played by its benchmark."""

from __future__ import annotations

import asyncio
import inspect
import json
import math
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer
from transformers.utils import get_json_schema

from aloe.engines.embedded import resolve_checkpoint
from aloe.environments import TwinsEnvironment
from aloe.environments.trl_environment import TwinsToolEnvironment, rows
from aloe.training.accelerator import prepare
from aloe.verifiable import OPPOSITE, program_reply, types
from aloe.verifiable.wordings import topics

prepare()

from aloe.environments.openrlhf_agent import (  # noqa: E402
    AgentExecutor,
    AgentInstance,
    after_a_reply,
    write_prompts,
)

PAIRS = ("question", "tone", "self")


def play(environment, seed, policy):
    """(messages, rewards, infos) of an episode; policy: (turn, messages so far) -> reply."""
    heard, rewards, infos, done = [environment.reset(seed)], [], [], False
    while not done:
        said, reward, done, info = environment.step(policy(len(rewards), heard))
        rewards.append(reward)
        infos.append(info)
        if said is not None:
            heard.append(said)
    assert len(heard) == len(rewards) == environment.turns
    return heard, rewards, infos


# The environment


def test_seeds_in_pairs_are_twins_and_every_type_is_as_likely():
    environment, drawn = TwinsEnvironment(PAIRS, count=2), Counter()
    for seed in range(0, 4000, 2):
        first = environment.reset(seed)
        one = environment.person
        assert environment.reset(seed + 1) == first
        other = environment.person
        assert one.twin_id == other.twin_id
        assert [OPPOSITE[kind] for kind in one.kinds] == list(other.kinds)
        drawn[one.kinds] += 1
    every = types(PAIRS, 2)
    assert set(drawn) == set(every)
    expected = 2000 / len(every)
    assert all(abs(n - expected) < 4 * math.sqrt(expected) for n in drawn.values())


@settings(max_examples=25)
@given(st.integers(0, 10**6), st.lists(st.text(min_size=1).filter(str.strip), min_size=5))
def test_who_does_not_read_the_user_gets_one_half_of_twins_at_every_turn(n, said):
    environment = TwinsEnvironment(PAIRS, count=2, turns=5)
    one, other = (
        play(environment, seed, lambda turn, _: said[turn]) for seed in (2 * n, 2 * n + 1)
    )
    assert [a + b for a, b in zip(one[1], other[1], strict=True)] == [1.0] * 5


@pytest.mark.parametrize("wordings", ["train", "heldout"])
def test_who_reads_gets_what_can_be_expected(wordings):
    environment = TwinsEnvironment(PAIRS, count=2, turns=6, wordings=wordings, topics=wordings)
    every, rewards, best = types(PAIRS, 2), [], []
    for seed in range(400):
        replies = []

        def ideal(turn, heard, replies=replies):
            said = program_reply("ideal", environment.person, replies, PAIRS, turn)
            replies.append(said)
            return said

        heard, got, infos = play(environment, seed, ideal)
        assert heard[0] in {topic.says for topic in topics(wordings)}
        assert [info["nats"] for info in infos] == sorted(info["nats"] for info in infos)
        assert infos[0] == {"hint": None, "hinted": (), "nats": 0.0, "best_share": 0.5}
        assert set(infos[-1]["hinted"]) <= set(environment.person.kinds)
        assert infos[-1]["nats"] <= math.log(len(every)) + 1e-9
        rewards.append(got)
        best.append([info["best_share"] for info in infos])
    assert np.mean(rewards, axis=0) == pytest.approx(np.mean(best, axis=0), abs=0.05)
    assert np.mean(rewards, axis=0)[-1] > 0.95


def test_an_episode_is_decided_by_its_seed_and_replies():
    def say(turn, _):
        return f"Is it {turn}?"

    first, second = TwinsEnvironment(), TwinsEnvironment()
    first.reset(99)
    first.step("Something else")
    assert play(first, 7, say) == play(second, 7, say)
    assert play(first, 7, say) != play(second, 9, say)


def test_an_empty_reply_meets_nothing():
    environment = TwinsEnvironment(turns=1)
    environment.reset(0)
    assert environment.step(" ")[1:3] == (0.0, True)


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"pairs": ["tone", "colour"]}, "colour"),
        ({"pairs": ["tone", "tone"]}, "twice"),
        ({"count": 0}, "count: 0, expected 1 to 3"),
        ({"count": 4}, "count: 4"),
        ({"turns": 0}, "turns: 0"),
        ({"wordings": "test"}, "wordings: 'test'"),
        ({"topics": "test"}, "topics: 'test'"),
    ],
)
def test_options_out_of_range(options, part):
    with pytest.raises(ValueError, match=part):
        TwinsEnvironment(**options)


def test_steps_out_of_turn():
    environment = TwinsEnvironment(turns=1)
    with pytest.raises(RuntimeError, match="reset"):
        environment.step("Hello")
    environment.reset(0)
    environment.step("Hello")
    with pytest.raises(RuntimeError, match="over"):
        environment.step("Hello")


def test_imports_nothing_heavy():
    code = "import sys, aloe.environments; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"torch", "ray", "vllm", "pydantic", "pyarrow", "numpy", "transformers", "openrlhf"}
    assert not heavy & set(done.stdout.split())


# OpenRLHF


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(resolve_checkpoint("embedded://tiny"))


def test_what_follows_a_reply_is_what_the_template_says(tokenizer):
    assert after_a_reply(tokenizer) == {
        "ends": ["<|im_end|>"],
        "next": "\n<|im_start|>user\n{message}<|im_end|>\n<|im_start|>assistant\n",
    }


def test_a_template_that_loses_messages_is_an_error(tokenizer):
    class Forgetful:
        def apply_chat_template(self, chat, **_):
            return chat[-1]["content"]

    with pytest.raises(ValueError, match="loses"):
        after_a_reply(Forgetful())


@dataclass
class Sampling:
    max_tokens: int = 8
    logprobs: None = None
    include_stop_str_in_output: bool = False


class Speaker:
    """Answers as vLLM does, with the replies that it was given."""

    def __init__(self, tokenizer, replies):
        self.tokenizer, self.replies, self.prompts = tokenizer, iter(replies), []

    async def generate(self, prompt_ids, params, multi_modal_data=None):
        assert params.include_stop_str_in_output
        self.prompts.append(self.tokenizer.decode(prompt_ids))
        text = next(self.replies)
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        cut = len(ids) > params.max_tokens
        ids = ids[: params.max_tokens]

        class Output:
            token_ids, text = ids, self.tokenizer.decode(ids)
            finish_reason = "length" if cut else "stop"

        class Answer:
            outputs = (Output,)

        return Answer


def episode(tokenizer, folder, replies, max_length=4096, seed=4, **options):
    write_prompts(folder / "p.jsonl", seed + 1, tokenizer, **options)
    row = json.loads((folder / "p.jsonl").read_text().splitlines()[seed])
    speaker, sampling = Speaker(tokenizer, replies), Sampling()
    played = AgentExecutor().execute(
        row["prompt"], row["label"], sampling, max_length, tokenizer, speaker
    )
    found = asyncio.run(played)
    assert sampling == Sampling()
    return found, speaker


def test_an_episode_of_openrlhf_is_the_conversation_in_the_template(tokenizer, tmp_path):
    replies = ["How nice! Why?", "How nice.", "I like it."]
    found, speaker = episode(
        tokenizer, tmp_path, [f"{reply}<|im_end|>" for reply in replies], turns=3, count=3
    )
    environment = TwinsEnvironment(turns=3, count=3)
    heard, rewards, infos = play(environment, 4, lambda turn, _: replies[turn])
    chat = [
        {"role": role, "content": text}
        for pair in zip(heard, replies, strict=True)
        for role, text in zip(("user", "assistant"), pair, strict=True)
    ]
    for turn, prompt in enumerate(speaker.prompts):
        assert prompt == tokenizer.apply_chat_template(
            chat[: 2 * turn + 1], tokenize=False, add_generation_prompt=True
        )
    assert found["reward"] == pytest.approx(sum(rewards) / 3)
    assert found["scores"] == pytest.approx(found["reward"])
    assert found["extra_logs"]["nats"] == infos[-1]["nats"]
    ids = found["observation_tokens"]
    assert [tokenizer.decode(ids[start:end]) for start, end in found["action_ranges"]] == [
        f"{reply}<|im_end|>" for reply in replies
    ]
    assert found["action_ranges"][-1][1] == len(ids)


def test_a_reply_that_did_not_end_itself_is_ended_by_the_environment(tokenizer, tmp_path):
    found, speaker = episode(tokenizer, tmp_path, ["How nice!", "Oh.<|im_end|>"], turns=2)
    assert "How nice!<|im_end|>\n<|im_start|>user\n" in speaker.prompts[1]
    start, end = found["action_ranges"][0]
    assert tokenizer.decode(found["observation_tokens"][start:end]) == "How nice!"


def test_turns_without_room_give_nothing(tokenizer, tmp_path):
    write_prompts(tmp_path / "p.jsonl", 1, tokenizer)
    prompt = json.loads((tmp_path / "p.jsonl").read_text())["prompt"]
    room = len(tokenizer(prompt, add_special_tokens=False)["input_ids"]) + 12
    found, speaker = episode(tokenizer, tmp_path, ["word " * 99] * 2, room, seed=0, turns=4)
    assert len(speaker.prompts) == 1
    assert found["truncated"]
    assert found["reward"] <= 1 / 4


def test_a_label_without_a_template_means_chatml():
    agent = AgentInstance()
    asyncio.run(agent.reset({"observation": "o", "label": json.dumps({"seed": 3, "turns": 2})}))
    step = asyncio.run(agent.step({"action_text": "Oh!"}))
    assert step["environment_feedback"].startswith("<|im_end|>\n<|im_start|>user\n")
    assert not step["done"]
    last = asyncio.run(agent.step({"action_text": "Oh!<|im_end|>"}))
    assert (last["done"], last["environment_feedback"]) == (True, "")
    with pytest.raises(ValueError, match="turns"):
        label = json.dumps({"seed": 3, "turns": 0})
        asyncio.run(AgentInstance().reset({"observation": "o", "label": label}))


# TRL


def test_trl_finds_one_tool_and_can_describe_it():
    """As its trainer looks: functions of the class, but for reset, get_reward and _names."""
    environment = TwinsToolEnvironment(turns=2)
    members = [name for name, _ in inspect.getmembers(type(environment), inspect.isfunction)]
    assert {"reset", "get_reward"} < set(members)
    tools = [n for n in members if n not in ("reset", "get_reward") and not n.startswith("_")]
    assert tools == ["send_message"]
    schema: dict[str, Any] = get_json_schema(environment.send_message)["function"]
    assert schema["name"] == "send_message"
    assert list(schema["parameters"]["properties"]) == ["message"]
    assert schema["parameters"]["required"] == ["message"]
    assert schema["parameters"]["properties"]["message"]["description"]


def test_trl_plays_an_episode_and_asks_for_its_reward():
    (row,) = rows([5], turns=3)
    environment, plain = TwinsToolEnvironment(turns=3), TwinsEnvironment(turns=3)
    heard, rewards, _ = play(plain, 5, lambda turn, _: "Why?")
    for _ in range(2):  # instances are used again
        assert environment.reset(**row) == heard[0]
        assert environment.get_reward() == 0
        assert [environment.send_message("Why?") for _ in range(2)] == heard[1:]
        assert environment.get_reward() == pytest.approx(sum(rewards[:2]) / 3)
        environment.send_message("Why?")
        assert "over" in environment.send_message("Why?")
        assert environment.get_reward() == pytest.approx(sum(rewards) / 3)
