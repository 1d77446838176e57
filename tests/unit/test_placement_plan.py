"""Layouts that are proposed, for a model of 7.6e9 parameters that nobody has to download."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from transformers import Qwen2Config

from aloe.config_file import load_config
from aloe.errors import UserError
from aloe.placement.memory import GIB, shape_of
from aloe.placement.needs import Devices, needs_of
from aloe.placement.plan import holds, propose


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("qwen")
    Qwen2Config(
        vocab_size=152064,
        hidden_size=3584,
        intermediate_size=18944,
        num_hidden_layers=28,
        num_attention_heads=28,
        num_key_value_heads=4,
        architectures=["Qwen2ForCausalLM"],
    ).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def shape(checkpoint):
    return shape_of(checkpoint, trust_remote_code=False)


def config_of(*overrides: str):
    return load_config("configs/paper.yaml", list(overrides))


def total(placement) -> int:
    return placement.nodes * placement.devices


def test_the_papers_training_takes_all_of_eight_gpus(shape):
    plan = propose(config_of(), Devices(8, 8, 80 * GIB), shape, ppo=False)
    assert plan.changes == {}
    assert total(plan.placements.actor) == total(plan.placements.reference) == 8
    assert all(need.memory.total < 72 * GIB for need in plan.needs)


def test_a_placed_reference_leaves_devices_to_the_actor(shape):
    config = config_of("--training.dpo.reference", "placed")
    plan = propose(config, Devices(8, 8, 80 * GIB), shape, ppo=False)
    assert (total(plan.placements.actor), total(plan.placements.reference)) == (4, 4)


def test_ppos_five_roles_find_room_on_one_machine(shape):
    plan = propose(config_of(), Devices(8, 8, 80 * GIB), shape, ppo=True)
    roles = {need.role: need for need in plan.needs if need.training == "ppo"}
    assert roles.keys() == {"actor", "critic", "reference", "reward", "rollout"}
    groups = {need.group.name: need.group.total for need in roles.values()}
    assert sum(groups.values()) <= 8
    assert roles["rollout"].memory.kv_cache > 50 * GIB
    assert not any(placement.group for _, placement in plan.placements)


def test_roles_share_devices_where_there_are_too_few(shape):
    config = config_of("--training.dpo.reference", "placed")
    devices = Devices(2, 2, 141 * GIB)
    plan = propose(config, devices, shape, ppo=False)
    assert plan.placements.actor.group == plan.placements.reference.group == "actor"
    assert total(plan.placements.actor) == 2


def test_settings_that_save_memory_are_named(shape):
    overrides = [f"--training.{kind}.gradient_checkpointing=false" for kind in ("sft", "dpo")]
    plan = propose(config_of(*overrides), Devices(8, 8, 80 * GIB), shape, ppo=False)
    key = "gradient_checkpointing"
    assert plan.changes == {f"training.{kind}.{key}": True for kind in ("sft", "dpo")}


def test_no_actor_is_larger_than_the_batch_allows(shape):
    plan = propose(config_of(), Devices(64, 8, 80 * GIB), shape, ppo=False)
    assert total(plan.placements.actor) == 8  # a batch of 48 is 8 micro-batches of 6
    assert total(plan.placements.reference) == 64


def test_what_fits_nowhere_is_said(shape):
    message = r"--gpus 1 --gpu-memory 80: no layout of sft, dpo fits, .* 7.62e9 parameters"
    with pytest.raises(UserError, match=message):
        propose(config_of(), Devices(1, 1, 80 * GIB), shape, ppo=False)


def test_the_configurations_own_layout_fits_its_gpus(shape):
    config, devices = config_of(), Devices(8, 8, 80 * GIB)
    for need in needs_of(config, config.placements, shape, devices, ppo=False):
        assert holds(config, [need], devices), need


def test_the_command_prints_a_section_that_a_config_takes(checkpoint, tmp_path):
    command = [sys.executable, "-m", "aloe", "placement", "plan", "configs/paper.yaml"]
    command += ["--training.base", checkpoint, "--gpus", "16", "--gpu-memory", "80"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    section = yaml.safe_load(done.stdout)
    assert section == {
        "placements": {
            "actor": {"nodes": 1, "devices": 8},
            "reference": {"nodes": 2, "devices": 8},
        }
    }
    written = yaml.safe_load(Path("configs/paper.yaml").read_text()) | section
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(written))
    assert load_config(str(tmp_path / "c.yaml"), []).placements.reference.nodes == 2
    told = json.loads(
        subprocess.run([*command, "--json"], capture_output=True, check=True, timeout=120).stdout
    )
    assert told["placements"] == section["placements"]
    assert {need["role"] for need in told["needs"]} == {"actor", "reference"}
    assert all(need["total_gib"] < 72 for need in told["needs"])
