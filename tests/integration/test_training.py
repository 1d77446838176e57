"""SFT and DPO with OpenRLHF and DeepSpeed on Ray, on a tiny model and planted preferences."""

from __future__ import annotations

import inspect
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import platformdirs
import pytest

from aloe.config import Config
from aloe.errors import UserError
from aloe.schema import METRICS, PAIRS, SFT
from aloe.storage import Manifest, Store, stage_manifest
from aloe.training import train_dpo, train_sft

TOPICS = ["the garden", "a night shift", "a new bike", "the choir", "old maps", "bread baking"]
TRAIN, VALIDATION = 18, 6

pytestmark = pytest.mark.usefixtures("local_ray")


def planted_rows() -> Iterator[dict[str, Any]]:
    """Warm replies are always preferred, lists always rejected."""
    draw = random.Random(0)
    for i in range(TRAIN + VALIDATION):
        topic = draw.choice(TOPICS)
        yield {
            "tree_id": f"t{i}",
            "persona_id": f"p{i}",
            "split": "train" if i < TRAIN else "validation",
            "turn": 1,
            "prompt": [
                {"role": "system", "content": "You chat with a friend."},
                {"role": "user", "content": f"Today it was {topic} again, day {i}."},
            ],
            "preferred": f"Oh, {topic}! I love that you keep at it. What happened next?",
            "rejected": f"There are several facts about {topic}. First: it exists.",
        }


def planted_run(folder: Path, **options: Any) -> tuple[Config, Store]:
    """A run whose preferences are complete, and a configuration that trains on them."""
    stage = {"batch_size": 6, "learning_rate": 1e-3, "warmup_ratio": 0, "max_len": 256, **options}
    config = Config.model_validate(
        {
            "run": {"dir": str(folder), "seed": 5},
            "models": {"script": {"backend": "scripted"}},
            "roles": dict.fromkeys(("user", "inducer", "guided", "unguided", "judge"), "script"),
            "personas": {
                "writer": "script",
                "profiles": {"size": 20},
                "personalities": {"size": 20},
            },
            "training": {"base": "embedded://tiny", "sft": stage, "dpo": {**stage, "beta": 0.1}},
        }
    )
    store = Store(config.run.dir)
    rows = list(planted_rows())
    sft = [{**row, "row_id": row["tree_id"], "response": row["preferred"]} for row in rows]
    judged = {"preferred_role": "guided", "probability": 0.9, "judge_agrees": True}
    pairs = [{**row, **judged, "pair_id": row["tree_id"]} for row in rows]
    fields = set(SFT.names)
    store.write_table("preferences/sft.parquet", [{k: row[k] for k in fields} for row in sft], SFT)
    store.write_table("preferences/pairs.parquet", pairs, PAIRS)
    stage_manifest(store, "preferences", {}).finish(store, time.monotonic())
    return config, store


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, Store, Manifest, Manifest]:
    """One run of SFT and DPO that the tests look at."""
    config, store = planted_run(tmp_path_factory.mktemp("trained"))
    return config, store, train_sft(config, store), train_dpo(config, store)


def test_sft_learns(trained):
    results = trained[2].results
    assert results["loss_after"] < results["loss_before"] - 0.1
    assert results["train_loss_after"] < results["train_loss_before"] - 0.1
    assert results["train_loss_last"] < results["train_loss_first"]
    assert trained[2].counts["steps"] == 3
    assert trained[2].counts["rows_unused"] == 0


def test_dpo_learns_the_planted_preference(trained):
    results = trained[3].results
    assert results["loss_before"] == pytest.approx(0.693147, abs=1e-5)
    assert results["loss_after"] < results["loss_before"] - 0.05
    assert results["train_loss_after"] < results["train_loss_before"] - 0.05
    assert results["reward_accuracy_after"] == 1.0
    assert results["reward_margin_after"] > 0.1
    assert (results["pairs_train"], results["pairs_validation"]) == (TRAIN, VALIDATION)
    for when in ("before", "after"):
        low, high = results[f"accuracy_interval_{when}"]
        assert 0 <= low <= results[f"accuracy_{when}"] <= high <= 1


def test_every_step_is_in_the_metrics(trained):
    for kind, names in (("sft", {"loss"}), ("dpo", {"loss", "margin", "accuracy_reward"})):
        rows = trained[1].read_table(f"training/{kind}/metrics.parquet", METRICS).to_pylist()
        per_step = {"learning_rate", "grad_norm", "tokens", "seconds", *names}
        batches = [row for row in rows if row["split"] == "train" and row["name"] in per_step]
        assert {(row["step"], row["name"]) for row in batches} == {
            (step, name) for step in (1, 2, 3) for name in per_step
        }
        losses = {row["step"]: row["value"] for row in batches if row["name"] == "loss"}
        assert losses[1] == pytest.approx(trained[2 + (kind == "dpo")].results["train_loss_first"])
        held_out = [row for row in rows if row["split"] == "validation" and row["name"] == "loss"]
        assert [row["step"] for row in held_out] == [0, 3]


def test_the_policy_is_its_reference_until_the_first_step(trained):
    rows = trained[1].read_table("training/dpo/metrics.parquet", METRICS).to_pylist()
    (margin,) = [row["value"] for row in rows if row["name"] == "margin" and row["step"] == 1]
    assert abs(margin) < 1e-4


def test_checkpoints_are_plain_hugging_face_folders(trained):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from aloe.engines.embedded import resolve_checkpoint

    folders = [trained[1].path("training", kind, "checkpoint") for kind in ("sft", "dpo")]
    folders.append(resolve_checkpoint("embedded://tiny"))
    models = [AutoModelForCausalLM.from_pretrained(folder) for folder in folders]
    weights = [model.model.layers[0].mlp.up_proj.weight for model in models]
    assert {weight.dtype for weight in weights} == {torch.float32}
    assert not any(torch.equal(weights[i], weights[j]) for i, j in ((0, 1), (0, 2), (1, 2)))
    assert models[0].config.use_cache and models[0].generation_config.eos_token_id is not None
    chat = [{"role": "user", "content": "hello"}]
    tokenizers = [AutoTokenizer.from_pretrained(folder) for folder in folders]
    assert len({t.apply_chat_template(chat, tokenize=False) for t in tokenizers}) == 1
    assert len({t.eos_token_id for t in tokenizers}) == 1


def test_training_text_is_what_an_engine_sees():
    from transformers import AutoTokenizer

    from aloe.engines.embedded import resolve_checkpoint
    from aloe.training.data import encode, end_of_turn

    tokenizer = AutoTokenizer.from_pretrained(resolve_checkpoint("embedded://tiny"))
    end = end_of_turn(tokenizer)
    assert end == tokenizer.eos_token_id
    row = next(planted_rows())
    (encoded,), _ = encode(tokenizer, row["prompt"], [row["preferred"]], end, 256)
    text = tokenizer.apply_chat_template(row["prompt"], tokenize=False, add_generation_prompt=True)
    assert tokenizer.decode(list(encoded.ids[: encoded.prompt_length])) == text
    assert tokenizer.decode(list(encoded.ids)) == f"{text}{row['preferred']}{tokenizer.eos_token}"


def test_a_second_call_does_nothing(trained):
    config, store, sft, _ = trained
    started = time.monotonic()
    assert train_sft(config, store) == sft
    assert time.monotonic() - started < 1


def test_no_actor_and_no_place_is_left(trained):
    import ray

    deadline = time.monotonic() + 20
    while ray.available_resources().get("GPU") != ray.cluster_resources()["GPU"]:
        assert time.monotonic() < deadline
        time.sleep(0.5)


def test_two_ranks_train_like_one(trained, tmp_path: Path):
    config, store = planted_run(tmp_path, ranks=2, zero_stage=3)
    results = train_sft(config, store).results
    for name, value in trained[2].results.items():
        assert results[name] == pytest.approx(value, rel=1e-4), name


def test_more_ranks_than_the_cluster_has_gpus_are_refused_at_once(trained, tmp_path: Path):
    config, store = planted_run(tmp_path, ranks=64, batch_size=64)
    rows = store.read_table("preferences/sft.parquet", SFT).to_pylist() * 4
    store.write_table("preferences/sft.parquet", rows, SFT)
    started = time.monotonic()
    with pytest.raises(UserError, match=r"training.sft.ranks: 64 ranks need 64 GPU .* has 4 GPU"):
        train_sft(config, store)
    assert time.monotonic() - started < 10


def test_what_a_rank_refuses_reaches_the_user(trained, tmp_path: Path):
    config, store = planted_run(tmp_path, max_len=64)
    rows = store.read_table("preferences/sft.parquet", SFT).to_pylist()
    for row in rows:
        row["response"] = "word " * 100
    store.write_table("preferences/sft.parquet", rows, SFT)
    with pytest.raises(UserError, match="none fits into max_len 64 tokens"):
        train_sft(config, store)
    assert not store.exists("training/sft/checkpoint")


def test_a_build_that_was_killed_does_not_block_the_next(trained):
    folder = Path(platformdirs.user_cache_dir("aloe")) / "torch_extensions" / "fused_adam"
    (folder / "lock").touch()
    code = "from aloe.training.compile import build_cpu_ops; build_cpu_ops(print)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120, capture_output=True)
    assert not (folder / "lock").exists()


def openrlhf_surface() -> dict[str, tuple[Any, set[str]]]:
    """What this package patches, subclasses or calls -> the parameters it counts on."""
    from aloe.training.accelerator import prepare

    prepare()
    from openrlhf.datasets.reward_dataset import RewardDataset
    from openrlhf.datasets.sft_dataset import SFTDataset
    from openrlhf.models import Actor, DPOLoss
    from openrlhf.trainer.dpo_trainer import DPOTrainer
    from openrlhf.trainer.ray.launcher import BaseDistributedActor, RayActorGroup
    from openrlhf.trainer.sft_trainer import SFTTrainer
    from openrlhf.utils import get_strategy
    from openrlhf.utils.deepspeed import DeepspeedStrategy

    hook = {"args", "global_step", "step_bar", "logs_dict", "client_states"}
    trainer = {"model", "strategy", "optim", "scheduler", "tokenizer", "train_dataloader"}
    trainer |= {"eval_dataloader", "max_norm", "max_epochs"}
    pair = {"model", "chosen_ids", "c_mask", "reject_ids", "r_mask", "prompt_id_lens"}
    actor = {"attn_implementation", "param_dtype", "ds_config", "packing_samples"}
    return {
        "Actor": (Actor.__init__, actor),
        "Actor.forward": (Actor.forward, {"attention_mask", "return_logprobs"}),
        "DPOLoss": (DPOLoss.__init__, {"beta", "label_smoothing"}),
        "SFTDataset.collate_fn": (SFTDataset.collate_fn, {"item_list"}),
        "RewardDataset.collate_fn": (RewardDataset.collate_fn, {"item_list"}),
        "SFTTrainer": (SFTTrainer.__init__, trainer),
        "SFTTrainer.fit": (SFTTrainer.fit, {"args", "num_update_steps_per_epoch"}),
        "SFTTrainer hook": (SFTTrainer.save_logs_and_checkpoints, hook),
        "DPOTrainer": (DPOTrainer.__init__, trainer | {"ref_model", "beta"}),
        "DPOTrainer.fit": (DPOTrainer.fit, {"args", "num_update_steps_per_epoch"}),
        "DPOTrainer hook": (DPOTrainer.save_logs_and_checkpoints, hook),
        "DPOTrainer forward": (DPOTrainer.concatenated_forward, pair),
        "BaseDistributedActor": (
            BaseDistributedActor.__init__,
            {"world_size", "rank", "master_addr", "master_port"},
        ),
        "RayActorGroup": (RayActorGroup.__init__, {"num_nodes", "num_gpus_per_node", "pg"}),
        "RayActorGroup.run": (RayActorGroup.async_run_method, {"method_name"}),
        "get_strategy": (get_strategy, {"args"}),
        "setup_dataloader": (
            DeepspeedStrategy.setup_dataloader,
            {"replay_buffer", "batch_size", "pin_memory", "collate_fn"},
        ),
        "save_model": (DeepspeedStrategy.save_model, {"model", "tokenizer", "output_dir"}),
        "all_reduce": (DeepspeedStrategy.all_reduce, {"data", "op"}),
        "get_grad_norm": (DeepspeedStrategy.get_grad_norm, {"model"}),
    }


def test_openrlhf_still_has_what_we_lean_on():
    gone = {}
    for name, (function, needed) in openrlhf_surface().items():
        missing = needed - set(inspect.signature(function).parameters)
        if missing:
            gone[name] = sorted(missing)
    assert not gone, f"OpenRLHF moved; adapt aloe/training to: {gone}"


def test_openrlhf_still_asks_for_cuda_where_we_answer():
    """A patch whose target has moved would silently change nothing."""
    openrlhf_surface()
    from openrlhf.models import actor, ring_attn_utils
    from openrlhf.utils import utils
    from openrlhf.utils.deepspeed import deepspeed

    asked = {
        'init_device_mesh(\n            "cuda"': deepspeed.DeepspeedStrategy.setup_distributed,
        "torch.cuda.set_device(": deepspeed.DeepspeedStrategy.setup_distributed,
        "torch.cuda.current_device()": deepspeed.DeepspeedStrategy.all_reduce,
        "from openrlhf.utils.utils import convert_to_torch_dtype": actor.Actor.__init__,
        "from flash_attn.bert_padding import": ring_attn_utils,
    }
    gone = [text for text, where in asked.items() if text not in inspect.getsource(where)]
    assert not gone, f"OpenRLHF moved; aloe/training/accelerator.py answers calls not made: {gone}"
    assert utils.convert_to_torch_dtype("fp32") == __import__("torch").float32
