"""PPO that may spend only so much, or whose judge goes away: a state, and on from there."""

from __future__ import annotations

from typing import Any

import pytest
from chat_server import ChatServer, Reply, judged
from killing import step_kept
from planted_run import planted_run

from aloe.config import OpenAIModel
from aloe.engines.account import tokens_of
from aloe.errors import StageStopped
from aloe.storage.spending import spent_by_stage
from aloe.training import train_ppo

PPO: dict[str, Any] = {
    "updates": 3,
    "turns": 2,
    "batch_size": 4,
    "micro_batch_size": 2,
    "samples": 2,
    "max_len": 256,
    "start_from": "base",
    "estimator": "group_norm",
    "rewards": {"verifiable": 1.0},
    "sampling": {"temperature": 1.0, "top_p": 1.0, "max_tokens": 8},
    "eval_dialogues": 2,
}


@pytest.mark.usefixtures("own_ray")
def test_a_limit_ends_ppo_after_an_update_and_a_higher_one_goes_on(tmp_path):
    config, store = planted_run(tmp_path, ppo=PPO, ray={"num_cpus": 6, "logical_gpus": 6})

    def limited(tokens: int | None):
        run = config.run.model_copy(update={"max_tokens": tokens})
        return config.model_copy(update={"run": run})

    with pytest.raises(StageStopped, match=r"training/ppo: stopped, as .* run\.max_tokens 1 "):
        train_ppo(limited(1), store)
    assert step_kept(store, "ppo") == 1
    first = tokens_of(spent_by_stage(store)["training/ppo"])
    assert first > 1
    with pytest.raises(StageStopped):  # at once
        train_ppo(limited(1), store)
    assert tokens_of(spent_by_stage(store)["training/ppo"]) == first
    manifest = train_ppo(limited(None), store)
    assert manifest.counts["updates"] == 3
    assert tokens_of(spent_by_stage(store)["training/ppo"]) == tokens_of(manifest.usage) > first


@pytest.mark.usefixtures("own_ray")
def test_a_judge_whose_key_is_revoked_stops_ppo_in_order(tmp_path):
    ppo = PPO | {"rewards": {"verifiable": 0.0, "judge": 1.0}, "checkpoint_steps": 1}
    config, store = planted_run(tmp_path, ppo=ppo, ray={"num_cpus": 6, "logical_gpus": 6})
    revoked = []

    def script(post):
        if not revoked and step_kept(store, "ppo") == 1:
            revoked.append(post.number)
        return Reply(401) if revoked and not well else Reply(body=judged())

    well = []
    with ChatServer(script).running() as server:
        judge = OpenAIModel(backend="openai", model="m", base_url=server.url)
        roles = config.roles.model_copy(update={"judge": "server"})
        config = config.model_copy(
            update={"models": {**config.models, "server": judge}, "roles": roles}
        )
        with pytest.raises(StageStopped, match=r"^training/ppo: server: .* refuses the key"):
            train_ppo(config, store)
        kept = step_kept(store, "ppo")
        assert kept >= 1
        well.append(True)
        manifest = train_ppo(config, store)
    assert manifest.counts["updates"] == 3
