"""OpenRLHF's own ``train_dpo`` on pairs, timed step by step; called by dpo_step.py.

It is the command line itself, unchanged but for where it asks for CUDA or refuses float32.
"""

from __future__ import annotations

import argparse
import json
import os
import runpy
import sys
import time
from pathlib import Path
from typing import Any

from peer_result import told

from aloe.training.accelerator import attention, precision, prepare


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pairs", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--batch-size", type=int, required=True)
    parser.add_argument("--micro", type=int, required=True)
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--max-len", type=int, required=True)
    arguments = parser.parse_args()
    prepare()
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29511"}
    data = arguments.out / "pairs.jsonl"
    data.parent.mkdir(parents=True)
    data.write_text("".join(_conversations(arguments.pairs)))

    from openrlhf.trainer.dpo_trainer import DPOTrainer

    ends: list[float] = []
    losses: list[float] = []
    fit, hook = DPOTrainer.fit, DPOTrainer.save_logs_and_checkpoints

    def timed_fit(*a: Any, **k: Any) -> None:
        ends.append(time.monotonic())
        fit(*a, **k)

    def timed_hook(trainer: Any, args: Any, step: int, bar: Any, logs: Any, states: Any) -> None:
        ends.append(time.monotonic())
        losses.append(logs["loss_mean"])
        hook(trainer, args, step, bar, logs, states)

    DPOTrainer.fit, DPOTrainer.save_logs_and_checkpoints = timed_fit, timed_hook
    add = argparse.ArgumentParser.add_argument

    def lenient(own: Any, *names: str, **options: Any) -> Any:
        if names == ("--ds.param_dtype",):
            options.pop("choices")  # it knows bf16 and fp16 only
        return add(own, *names, **options)

    argparse.ArgumentParser.add_argument = lenient  # type: ignore[assignment, method-assign]
    settings = {
        "--model.model_name_or_path": arguments.model,
        "--ref.model_name_or_path": arguments.model,
        "--data.dataset": str(data),
        "--data.prompt_key": "prompt",
        "--data.chosen_key": "chosen",
        "--data.rejected_key": "rejected",
        "--data.max_len": arguments.max_len,
        "--train.batch_size": arguments.batch_size,
        "--train.micro_batch_size": arguments.micro,
        "--train.max_epochs": arguments.epochs,
        "--ds.zero_stage": 0,
        "--ds.param_dtype": precision(),
        "--ds.attn_implementation": attention(),
        "--adam.lr": 1e-5,
        "--lr_warmup_ratio": 0,
        "--model.beta": 0.1,
        "--ckpt.output_dir": str(arguments.out / "checkpoint"),
        "--ckpt.path": str(arguments.out / "states"),
    }
    sys.argv = ["train_dpo", "--data.apply_chat_template", "--ckpt.disable_ds"]
    sys.argv += [str(word) for pair in settings.items() for word in pair]
    runpy.run_module("openrlhf.cli.train_dpo", run_name="__main__")
    print(json.dumps(told(ends, losses)))


def _conversations(file: Path) -> list[str]:
    lines = []
    for line in file.read_text().splitlines():
        row = json.loads(line)
        sides = {
            name: [{"role": "assistant", "content": row[key]}]
            for name, key in (("chosen", "preferred"), ("rejected", "rejected"))
        }
        lines.append(json.dumps({"prompt": row["prompt"], **sides}) + "\n")
    return lines


if __name__ == "__main__":
    main()
