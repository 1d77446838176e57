"""PPO with all five roles apart: weights move, the engine follows, each turn is credited."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from killing import killed_after, step_kept
from planted_run import planted_run

from aloe.config import Config, Sampling, VllmModel
from aloe.schema import DIALOGUES, METRICS
from aloe.storage import Manifest, Store
from aloe.training import train_ppo, train_reward

UPDATES, TURNS = 4, 3
PPO: dict[str, Any] = {
    "updates": UPDATES,
    "turns": TURNS,
    "batch_size": 8,
    "micro_batch_size": 2,
    "samples": 2,
    "max_len": 256,
    "learning_rate": 3e-3,
    "critic_learning_rate": 1e-3,
    "warmup_ratio": 0,
    "start_from": "base",
    "rewards": {"verifiable": 1.0, "model": 0.5},
    "sampling": {"temperature": 1.0, "top_p": 1.0, "max_tokens": 12},
    "eval_steps": 2,
    "checkpoint_steps": 2,
}
TINY = {"backend": "vllm", "path": "embedded://tiny", "max_model_len": 1024, "max_num_seqs": 8}


@dataclass
class Run:
    config: Config
    store: Store
    manifest: Manifest
    places: frozenset[str] = frozenset()
    """Ids of its placement groups."""

    def numbers(self, split: str) -> dict[tuple[int, str], float]:
        rows = self.store.read_table("training/ppo/metrics.parquet", METRICS).to_pylist()
        return {(r["step"], r["name"]): r["value"] for r in rows if r["split"] == split}


def begun(folder: Path) -> tuple[Config, Store]:
    """A run whose preferences are complete, before its reward model is trained."""
    return planted_run(
        folder,
        ppo=PPO,
        reward={"start_from": "base"},
        placements={"actor": {"devices": 2}},
        ray={"num_cpus": 6, "logical_gpus": 6},
    )


@pytest.fixture(scope="module")
def run(own_ray: None, tmp_path_factory: pytest.TempPathFactory) -> Run:
    config, store = begun(tmp_path_factory.mktemp("ppo"))
    before = ray.util.placement_group_table().keys() if ray.is_initialized() else set()
    train_reward(config, store)
    manifest = train_ppo(config, store)
    places = frozenset(ray.util.placement_group_table().keys() - before)
    return Run(config, store, manifest, places)


@pytest.fixture(scope="module")
def killed(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The same, but all of the policy's processes are killed when the state of update 2 is kept."""
    config, store = begun(tmp_path_factory.mktemp("killed"))
    shutil.copytree(run.store.path("training/reward"), store.path("training/reward"))
    with (
        pytest.raises(ray.exceptions.RayActorError),
        killed_after(store, "ppo", 2, "PolicyWorker"),
    ):
        train_ppo(config, store)
    assert step_kept(store, "ppo") == 2
    return Run(config, store, train_ppo(config, store))


def test_weights_move_and_the_engine_follows(run):
    numbers = run.numbers("train")
    for step in range(1, UPDATES + 1):
        assert numbers[step, "sync_kl"] < 1e-6
        # Were the engine still what it was before the update, it would be this far off.
        assert numbers[step, "sync_moved"] > 1e-4
    assert abs(numbers[1, "kl"]) < 1e-5
    assert abs(numbers[UPDATES, "kl"]) > 1e-3
    before = weights(run.config.training.base)
    after = weights(run.store.url("training/ppo/checkpoint"))
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[name], after[name]) for name in before)


def weights(checkpoint: str) -> dict[str, torch.Tensor]:
    from transformers import AutoModelForCausalLM

    from aloe.engines.embedded import resolve_checkpoint

    model = AutoModelForCausalLM.from_pretrained(resolve_checkpoint(checkpoint))
    return {name: value.float() for name, value in model.state_dict().items()}


def test_a_policy_that_waited_for_its_critic_makes_as_many_steps_as_ever(run, tmp_path):
    """What was rolled out while the critic warmed up is not trained on later."""
    config, store = planted_run(
        tmp_path,
        ppo=PPO | {"critic_warmup": 1, "rewards": {"verifiable": 1.0}, "eval_dialogues": 2},
        placements={"actor": {"devices": 2}},
        ray={"num_cpus": 6, "logical_gpus": 6},
    )
    train_ppo(config, store)
    found, expected = Run(config, store, run.manifest).numbers("train"), run.numbers("train")
    assert (1, "learning_rate") not in found
    for step in range(2, UPDATES + 1):  # each step of the optimizer moves its schedule
        assert found[step, "learning_rate"] == expected[step - 1, "learning_rate"]


def test_every_part_of_the_reward_is_logged_apart(run):
    for split in ("train", "validation"):
        names = {name for _, name in run.numbers(split)}
        assert {"reward", "reward_verifiable", "reward_model", "reward_turn_1"} <= names
        assert {"length", "repetition", "parroting"} <= names
    names = {name for _, name in run.numbers("train")}
    assert {"kl", "entropy", "loss", "critic_loss", "values", "rollout_busy", "sync_kl"} <= names
    phases = {name for name in names if name.startswith("seconds_")}
    assert {f"seconds_{p}" for p in ("rollout", "reward", "reference", "update", "sync")} <= phases


def test_a_gradient_norm_is_logged_where_it_is_known(run):
    norms = [value for (_, name), value in run.numbers("train").items() if name == "grad_norm"]
    assert len(norms) == UPDATES
    assert min(norms) > 0


def test_ten_dialogues_are_kept_at_every_look(run):
    files = run.store.names("training/ppo/dialogues")
    assert files == ["000000.parquet", "000002.parquet", "000004.parquet"]
    for file in files:
        rows = run.store.read_table(f"training/ppo/dialogues/{file}", DIALOGUES).to_pylist()
        assert len({row["dialogue"] for row in rows}) >= 10
        assert all(1 <= row["turn"] <= TURNS for row in rows)
        for row in rows:
            assert row["preferences"] == ["asks", "calm"]
            parts = row["reward_verifiable"] + 0.5 * row["reward_model"]
            assert row["reward"] == pytest.approx(parts, abs=1e-5)


def test_everyone_had_a_place_of_its_own_and_gave_it_back(run):
    table = ray.util.placement_group_table()
    places = [table[key] for key in run.places]
    sizes = sorted(len(place["bundles"]) for place in places)
    # The policy's two ranks; the other four roles, and before them the reward model's training.
    assert sizes == [1, 1, 1, 1, 1, 2]
    bundles = [bundle for place in places for bundle in place["bundles"].values()]
    assert bundles == [{"CPU": 1.0, "GPU": 1.0}] * 7
    assert {place["state"] for place in places} == {"REMOVED"}
    deadline = time.monotonic() + 20
    while ray.available_resources().get("GPU") != 6:
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_killed_in_the_middle_it_goes_on_as_if_it_had_not_been(run, killed):
    assert killed.manifest.counts == run.manifest.counts
    assert not killed.store.exists("training/ppo/state")
    for split in ("train", "validation"):
        expected, found = run.numbers(split), killed.numbers(split)
        assert expected.keys() == found.keys()
        for (step, name), value in expected.items():
            if not any(part in name for part in ("second", "busy", "sync_kl")):
                assert found[step, name] == pytest.approx(value, abs=1e-3), (step, name)


def test_rolled_out_ahead_with_a_pool_a_judge_and_no_critic(run, tmp_path):
    """Asynchronous, a user whose engine is a pool, and the rest of the ways not gone above."""
    changes = {
        "ahead": True,
        "estimator": "rloo",
        "credit": "episode",
        "passes": 2,
        "updates": 3,
        "kl_target": 0.01,
        "kl_horizon": 16,
        "rewards": {"verifiable": 0.0, "judge": 1.0},
        "eval_steps": None,
        "checkpoint_steps": None,
        "zero_stage": 0,  # keeps no norm of the gradients
    }
    config, store = planted_run(
        tmp_path, ppo={**PPO, **changes}, ray={"num_cpus": 6, "logical_gpus": 6}
    )
    config = config.model_copy(
        update={
            "models": {**config.models, "tiny": VllmModel.model_validate(TINY)},
            "roles": config.roles.model_copy(update={"user": "tiny"}),
            "dialogue": config.dialogue.model_copy(update={"sampling": Sampling(max_tokens=20)}),
        }
    )
    found = Run(config, store, train_ppo(config, store))
    numbers = found.numbers("train")
    for step in (1, 2, 3):
        assert numbers[step, "sync_kl"] < 1e-6
        assert 0 < numbers[step, "reward_judge"] < 1
    assert not {"reward_model", "values", "grad_norm"} & {name for _, name in numbers}
    # Batch 1 is of the weights that train on it, the later ones of those before.
    assert abs(numbers[1, "rollout_kl"]) < 1e-5 < abs(numbers[2, "rollout_kl"])
    assert numbers[3, "kl_coef"] != numbers[1, "kl_coef"]
    assert found.manifest.usage.calls > 0
    answers = users_answers(found)
    assert answers
    assert not answers & users_answers(run)  # a script's
    assert not ray.util.list_named_actors(all_namespaces=True)  # its pool is gone


def users_answers(run: Run) -> set[str]:
    """What the simulated users said to replies of the policy."""
    return {
        row["user"]
        for file in run.store.names("training/ppo/dialogues")
        for row in run.store.read_table(f"training/ppo/dialogues/{file}", DIALOGUES).to_pylist()
        if row["turn"] > 1
    }
