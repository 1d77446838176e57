"""One rollout, SFT, PPO update and evaluation under templates of three shapes; rows are exact."""

from __future__ import annotations

import pytest
from chat_templates import SHAPES
from scripted_runs import persona_rows, scripted_values
from transformers import AutoTokenizer

from aloe.chat import ChatFormat, policy_options
from aloe.config_file import load_config
from aloe.engines.embedded import resolve_checkpoint
from aloe.pipeline import run_stage
from aloe.schema import NODES, PERSONAS, SCORES, SFT
from aloe.storage import Manifest, load_manifest, run_store
from aloe.training.data import read_sft

STAGES = ("dialogue", "preferences", "training/sft", "training/ppo", "evaluation")


@pytest.fixture(scope="module", params=["gemma", "mistral-last", "qwen3"])
def done(own_ray, request, tmp_path_factory):
    """Configuration and run folder of a whole run, and the tokenizer of its policy."""
    import yaml

    folder = tmp_path_factory.mktemp("chat")
    template = folder / "template.jinja"
    template.write_text(SHAPES[request.param])
    values = scripted_values(folder)
    values["ray"] = {"num_cpus": 8, "logical_gpus": 8}
    values["models"]["tiny"] = {
        "backend": "vllm",
        "path": "embedded://tiny",
        "max_model_len": 1024,
        "max_num_seqs": 16,
        "chat_template": str(template),
    }
    values["roles"] |= {"guided": "tiny", "unguided": "tiny"}
    values["personas"] |= {"verifiable": {"count": 2}}
    values["dialogue"] |= {"turns": 2, "tries": 8, "sampling": {"max_tokens": 16}}
    ppo = {"updates": 1, "samples": 2, "turns": 2, "eval_dialogues": 2, "max_len": 512}
    ppo |= {"start_from": "sft", "sampling": {"temperature": 1.0, "top_p": 1.0, "max_tokens": 12}}
    values["training"]["ppo"] = values["training"]["sft"] | ppo | {"rewards": {"verifiable": 1}}
    values["evaluation"] = {
        "policies": {"ppo": "ppo"},
        "baseline": "ppo",
        "turns": 2,
        "tries": 8,
        "sampling": {"max_tokens": 16},
    }
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(values))
    config = load_config(str(file))
    template.unlink()  # what the run needs of it, it has
    store = run_store(config)
    people = persona_rows(["train"] * 5 + ["validation"] * 2 + ["benchmark"] * 2)
    people = [row | {"preferences": ["asks", "calm"]} for row in people]
    store.write_table("personas/personas.parquet", people, PERSONAS)
    Manifest("personas", {}, "fixed", complete=True).save(store)
    for stage in STAGES:
        run_stage(config, store, stage)
    tokenizer = AutoTokenizer.from_pretrained(resolve_checkpoint("embedded://tiny"))
    return config, store, tokenizer


def test_all_stages_are_complete_and_nothing_failed(done):
    _, store, _ = done
    for stage in STAGES:
        manifest = load_manifest(store, stage)
        assert manifest is not None and manifest.complete
        assert not any(n for key, n in manifest.counts.items() if key.startswith("failed"))
    assert store.read_table("evaluation/scores", SCORES).num_rows > 0


def test_rows_are_the_tokens_of_the_same_messages(done):
    config, store, tokenizer = done
    chat = ChatFormat(tokenizer, policy_options(config))
    rows = store.read_table("preferences/sft.parquet", SFT).to_pylist()
    read = read_sft(store, chat, 1024)
    encoded = {
        row_id: row[0]
        for split in read.splits
        for row_id, row in zip(read.row_ids[split], read.splits[split], strict=True)
    }
    assert len(encoded) == len(rows)
    for row in rows:
        found = encoded[row["row_id"]]
        text = tokenizer.apply_chat_template(
            chat.shaped(row["prompt"]),
            chat_template=chat.options.template,
            add_generation_prompt=True,
            tokenize=False,
            enable_thinking=False,
        )
        for message in row["prompt"]:  # what was said without the template's space stays so
            said = message["content"]
            if message["role"] == "assistant" and not said.startswith(" "):
                text = text.replace(f"[/INST] {said}", f"[/INST]{said}")
        prompt = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert list(found.ids[: found.prompt_length]) == prompt
        assert (found.ids[-1] == chat.end_of_turn) == row["ended"]
        said = tokenizer.decode(list(found.ids[found.prompt_length :]))
        assert said == row["response"] + "<|im_end|>" * row["ended"]


def test_cut_replies_are_counted_and_end_in_no_row(done):
    _, store, _ = done
    nodes = store.read_table("dialogue/nodes", NODES).to_pylist()
    cut = [row for row in nodes if row["role"] != "user" and row["finish_reason"] == "length"]
    manifest = load_manifest(store, "dialogue")
    assert manifest is not None and manifest.counts["truncated"] == len(cut) > 0


def test_the_checkpoint_can_be_talked_with(done):
    config, store, _ = done
    for kind in ("sft", "ppo"):
        folder = store.path("training", kind, "checkpoint")
        saved = AutoTokenizer.from_pretrained(folder)
        assert saved.chat_template == policy_options(config).template
