"""TRL's DPOTrainer on pairs, timed step by step; called by dpo_step.py. Wants ``trl``."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peer_result import told
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import DPOConfig, DPOTrainer


class Clock(TrainerCallback):  # type: ignore[misc]
    """When training began and each optimizer step ended, and the losses."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.losses: list[float] = []

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.ends.append(time.monotonic())

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.ends.append(time.monotonic())

    def on_log(self, *_: Any, logs: Any = None, **__: Any) -> None:
        if "loss" in logs:
            self.losses.append(logs["loss"])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pairs", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--batch-size", type=int, required=True)
    parser.add_argument("--micro", type=int, required=True)
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--max-len", type=int, required=True)
    parser.add_argument("--precompute", action="store_true")
    arguments = parser.parse_args()
    gpu = torch.cuda.is_available()
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    rows = [json.loads(line) for line in arguments.pairs.read_text().splitlines()]
    # Plain text, not chats: TRL ends a reply with EOS, which is what ends a turn here.
    texts = [
        {
            "prompt": tokenizer.apply_chat_template(
                row["prompt"], tokenize=False, add_generation_prompt=True
            ),
            "chosen": row["preferred"],
            "rejected": row["rejected"],
        }
        for row in rows
    ]
    model = AutoModelForCausalLM.from_pretrained(
        arguments.model, dtype=torch.bfloat16 if gpu else torch.float32
    )
    config = DPOConfig(
        output_dir=str(arguments.out),
        per_device_train_batch_size=arguments.micro,
        gradient_accumulation_steps=arguments.batch_size // arguments.micro,
        num_train_epochs=arguments.epochs,
        max_length=arguments.max_len,
        learning_rate=1e-5,
        lr_scheduler_type="cosine_with_min_lr",
        lr_scheduler_kwargs={"min_lr_rate": 0.1},
        adam_beta2=0.95,
        beta=0.1,
        bf16=gpu,
        use_cpu=not gpu,
        gradient_checkpointing=False,  # faster where memory allows, as in the other variants
        precompute_ref_log_probs=arguments.precompute,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        seed=0,
    )
    clock, began = Clock(), time.monotonic()
    trainer = DPOTrainer(
        model=model,
        args=config,
        train_dataset=Dataset.from_list(texts),
        processing_class=tokenizer,
        callbacks=[clock],
    )
    seconds = time.monotonic() - began if arguments.precompute else 0.0
    trainer.train()
    print(json.dumps(told(clock.ends, clock.losses, seconds)))


if __name__ == "__main__":
    main()
