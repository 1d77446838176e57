"""SFT and DPO with OpenRLHF and DeepSpeed on Ray, on a tiny model and planted preferences."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from planted_run import TRAIN, VALIDATION, curve, planted_rows, planted_run
from processes import children_titled

from aloe.errors import UserError
from aloe.schema import METRICS, REFERENCE, SFT
from aloe.training import (
    ahead,
    announce,
    drop,
    is_started,
    train_dpo,
    train_reward,
    train_sft,
)
from aloe.training.compile import operators_folder

pytestmark = pytest.mark.usefixtures("local_ray")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """One run of SFT, reward model and DPO that the tests look at."""
    config, store = planted_run(tmp_path_factory.mktemp("trained"))
    run: dict[str, Any] = {"config": config, "store": store}
    for kind, train in (("sft", train_sft), ("reward", train_reward), ("dpo", train_dpo)):
        run[kind] = train(config, store)
    return run


def test_sft_learns(trained):
    results = trained["sft"].results
    assert results["loss_after"] < results["loss_before"] - 0.1
    assert results["train_loss_after"] < results["train_loss_before"] - 0.1
    assert results["train_loss_last"] < results["train_loss_first"]
    assert trained["sft"].counts["steps"] == 3
    assert trained["sft"].counts["rows_unused"] == 0


def test_dpo_learns_the_planted_preference(trained):
    results = trained["dpo"].results
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
    sides = {"reward_preferred", "reward_rejected", "margin"}
    dpo = {"accuracy_reward", "kl", "nll", "entropy", "seconds_reference"} | sides
    dpo |= {
        f"{what}_{side}" for what in ("length", "logprob") for side in ("preferred", "rejected")
    }
    of_kind = {"sft": {"entropy"}, "reward": {"accuracy"} | sides, "dpo": dpo}
    for kind, names in of_kind.items():
        rows = trained["store"].read_table(f"training/{kind}/metrics.parquet", METRICS).to_pylist()
        phases = {f"seconds_{phase}" for phase in ("forward", "backward", "update")}
        tokens = {"tokens", "computed_tokens", "tokens_per_second"}
        per_step = {"loss", "learning_rate", "grad_norm", "seconds"} | phases | tokens | names
        batches = [row for row in rows if row["split"] == "train" and row["name"] in per_step]
        assert {(row["step"], row["name"]) for row in batches} == {
            (step, name) for step in (1, 2, 3) for name in per_step
        }
        losses = {row["step"]: row["value"] for row in batches if row["name"] == "loss"}
        assert losses[1] == pytest.approx(trained[kind].results["train_loss_first"])
        held_out = [row for row in rows if row["split"] == "validation" and row["name"] == "loss"]
        assert [row["step"] for row in held_out] == [0, 3]
        by_turn = {row["name"] for row in rows if row["name"].startswith("margin_turn_")}
        assert by_turn == ({f"margin_turn_{k}" for k in (1, 2, 3)} if kind != "sft" else set())


def test_the_reward_model_learns_the_planted_preference(trained):
    results = trained["reward"].results
    assert results["loss_after"] < results["loss_before"] - 0.05
    assert results["accuracy_after"] == 1.0
    low, high = results["accuracy_interval_after"]
    assert 0.5 < low < high <= 1


def test_a_trained_reward_model_is_read_back(trained):
    """Its weights, and mean and deviation of the held-out rewards, which PPO divides by."""
    import aloe.training.worker  # isort: skip  # noqa: F401  (first: it prepares the process)
    import torch
    from transformers import AutoTokenizer

    from aloe.training.reward_model import load_reward_model

    folder = trained["store"].path("training/reward/checkpoint")
    options = {"attn_implementation": "sdpa", "param_dtype": "fp32", "normalize_reward": True}
    model = load_reward_model(folder, packs_trees=False, **options).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rewards = []
    for row in planted_rows():
        for reply in (row["preferred"], row["rejected"]):
            text = tokenizer.apply_chat_template(
                row["prompt"], tokenize=False, add_generation_prompt=True
            )
            end = tokenizer.eos_token
            ids = tokenizer(text + reply + end, add_special_tokens=False, return_tensors="pt")
            rewards.append(model(ids["input_ids"], attention_mask=ids["attention_mask"]).item())
    preferred, rejected = torch.tensor(rewards).view(-1, 2).unbind(-1)
    assert (preferred > rejected).all()
    held_out = torch.tensor(rewards[2 * TRAIN :])
    assert abs(held_out.mean().item()) < 1e-3 and held_out.std().item() == pytest.approx(1, 1e-3)


def test_each_token_of_a_tree_is_computed_once(trained):
    for kind in ("sft", "reward", "dpo"):
        tokens, computed = (curve(trained["store"], kind, f"{n}tokens") for n in ("", "computed_"))
        assert all(computed[step] < 0.7 * tokens[step] for step in tokens), kind
    assert trained["dpo"].counts["computed_tokens"] == sum(computed.values())


def test_tensorboard_has_the_same_numbers(trained):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    board = EventAccumulator(trained["store"].path("training/dpo/tensorboard"))
    board.Reload()
    events = board.Tensors("train/loss")
    found = {event.step: make_ndarray(event.tensor_proto).item() for event in events}
    assert found == pytest.approx(curve(trained["store"], "dpo"), rel=1e-6)


def test_log_probs_of_the_reference_are_kept_and_used_again(trained, tmp_path: Path, capsys):
    """Another beta asks the same reference: nothing is computed again."""
    store = trained["store"]
    (name,) = store.names("training/reference")
    rows = store.read_table(f"training/reference/{name}", REFERENCE).to_pylist()
    assert {row["pair_id"] for row in rows} == {
        f"{r['tree_id']}-{r['turn']}" for r in planted_rows()
    }
    assert {row["checkpoint"] for row in rows} == {name}
    assert trained["dpo"].counts["reference_pairs"] == len(rows) == TRAIN + VALIDATION
    kept = store.path("training/reference")
    options = {"start_from": "base", "reference_dir": kept, "beta": 0.3}
    config, other = planted_run(tmp_path, dpo=options)
    first = train_dpo(config, other)
    assert first.counts["reference_pairs"] == TRAIN + VALIDATION  # of another checkpoint
    config, other = planted_run(tmp_path / "again", dpo={**options, "beta": 0.5})
    again = train_dpo(config, other)
    assert again.counts["reference_pairs"] == 0
    assert len(store.names("training/reference")) == 2
    assert curve(other, "dpo")[1] == pytest.approx(0.693147, abs=1e-5)


def test_the_policy_is_its_reference_until_the_first_step(trained):
    rows = trained["store"].read_table("training/dpo/metrics.parquet", METRICS).to_pylist()
    (margin,) = [row["value"] for row in rows if row["name"] == "margin" and row["step"] == 1]
    assert abs(margin) < 1e-4


def test_checkpoints_are_plain_hugging_face_folders(trained):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from aloe.engines.embedded import resolve_checkpoint

    folders = [trained["store"].path("training", kind, "checkpoint") for kind in ("sft", "dpo")]
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

    from aloe.chat import ChatFormat
    from aloe.engines.embedded import resolve_checkpoint
    from aloe.training.data import Reply, encode

    tokenizer = AutoTokenizer.from_pretrained(resolve_checkpoint("embedded://tiny"))
    chat = ChatFormat(tokenizer)
    assert chat.end_of_turn == tokenizer.eos_token_id
    row = next(planted_rows())
    (encoded,), _ = encode(chat, row["prompt"], [Reply(row["preferred"])], 256)
    text = tokenizer.apply_chat_template(row["prompt"], tokenize=False, add_generation_prompt=True)
    assert tokenizer.decode(list(encoded.ids[: encoded.prompt_length])) == text
    assert tokenizer.decode(list(encoded.ids)) == f"{text}{row['preferred']}{tokenizer.eos_token}"


def test_a_second_call_does_nothing(trained):
    started = time.monotonic()
    assert train_sft(trained["config"], trained["store"]) == trained["sft"]
    assert time.monotonic() - started < 1


def test_no_actor_and_no_place_is_left(trained):
    import ray

    deadline = time.monotonic() + 20
    while ray.available_resources().get("GPU") != ray.cluster_resources()["GPU"]:
        assert time.monotonic() < deadline
        time.sleep(0.5)


def test_the_next_trainings_processes_start_while_one_saves(trained, tmp_path: Path, capsys):
    config, store = planted_run(tmp_path)
    announce(config, "dpo")
    train_sft(config, store)
    assert is_started()
    deadline = time.monotonic() + 60
    while not children_titled("ReferenceWorker"):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert "dpo: its processes start while this training saves" in capsys.readouterr().err
    results, expected = train_dpo(config, store).results, trained["dpo"].results
    assert {**results, "reference_seconds": 0} == {**expected, "reference_seconds": 0}
    assert not is_started() and not children_titled("ReferenceWorker")


def test_processes_that_nobody_takes_are_ended(trained, tmp_path: Path):
    config, store = planted_run(tmp_path)
    announce(config, "reward")
    train_sft(config, store)
    assert is_started()
    drop()
    assert not is_started()
    test_no_actor_and_no_place_is_left(trained)


def test_without_room_nothing_is_started_ahead(trained, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(ahead, "training_fits", lambda config, kind: False)
    config, store = planted_run(tmp_path)
    announce(config, "dpo")
    train_sft(config, store)
    assert not is_started()


def test_two_ranks_train_like_one(trained, tmp_path: Path):
    two = {"actor": {"devices": 2}}
    config, store = planted_run(tmp_path, placements=two, zero_stage=3)
    results = train_sft(config, store).results
    for name, value in trained["sft"].results.items():
        assert results[name] == pytest.approx(value, rel=1e-4), name


def test_more_ranks_than_the_cluster_has_gpus_are_refused_at_once(trained, tmp_path: Path):
    config, store = planted_run(tmp_path, placements={"actor": {"devices": 64}}, batch_size=192)
    rows = store.read_table("preferences/sft.parquet", SFT).to_pylist() * 12
    store.write_table("preferences/sft.parquet", rows, SFT)
    started = time.monotonic()
    with pytest.raises(UserError, match=r"placements.actor: .* 64 GPU .* 4 GPU"):
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


def test_a_model_that_cannot_take_a_trees_mask_is_trained_row_by_row(tmp_path: Path, capsys):
    from transformers import AutoTokenizer, MistralConfig, MistralForCausalLM

    from aloe.engines.embedded import resolve_checkpoint

    tokenizer = AutoTokenizer.from_pretrained(resolve_checkpoint("embedded://tiny"))
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    config = MistralConfig(vocab_size=len(tokenizer), sliding_window=64, **sizes, **heads)
    folder = str(tmp_path / "mistral")
    MistralForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    config, store = planted_run(tmp_path / "run", base=folder)
    manifest = train_sft(config, store)
    assert manifest.results["loss_after"] < manifest.results["loss_before"]
    assert manifest.counts["computed_tokens"] >= manifest.counts["tokens"]  # with padding
    told = capsys.readouterr().err
    reason = "some of its layers do not attend to all tokens before"
    assert f"training.sft.tree_packing is off for this model: {reason}" in told
    assert "training.sft.packing is off: there is no flash attention" in told


def test_a_build_that_was_killed_does_not_block_the_next(trained):
    folder = operators_folder() / "fused_adam"
    (folder / "lock").touch()
    code = "from aloe.training.compile import build_cpu_ops; build_cpu_ops(print)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120, capture_output=True)
    assert not (folder / "lock").exists()
