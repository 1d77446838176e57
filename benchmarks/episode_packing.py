"""A micro-batch of PPO's episodes, forward and backward: OpenRLHF's actor and this project's.

    python benchmarks/episode_packing.py --prompts 1 2 --json FILE

Episodes of one prompt share its tokens; random ids, as only their number matters here. ``faster_N``
is the ratio of the seconds with the samples of N prompts in one pass, ``fewer`` that of the tokens:
the most that packing could be faster if every token cost the same.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from measuring import write_json
from rich.console import Console
from rich.table import Table

from aloe.training.accelerator import prepare

prepare()

import torch  # noqa: E402
from openrlhf.models import Actor  # noqa: E402
from transformers import AutoModelForCausalLM  # noqa: E402

from aloe.engines.embedded import resolve_checkpoint  # noqa: E402
from aloe.training.ppo.episode_actor import EpisodeActor  # noqa: E402


def episodes(arguments: argparse.Namespace, prompts: int, vocabulary: int) -> dict[str, Any]:
    """What an actor is called with: ``samples`` episodes of each prompt."""
    rows, masks = [], []
    for _ in range(prompts):
        prompt = torch.randint(vocabulary, (arguments.prompt_tokens,))
        for _ in range(arguments.samples):
            turns = [
                torch.randint(vocabulary, (arguments.reply_tokens + arguments.user_tokens,))
                for _ in range(arguments.turns)
            ]
            own = [1] * arguments.reply_tokens + [0] * arguments.user_tokens
            rows.append(torch.cat([prompt, *turns]))
            masks.append([0] * len(prompt) + own * arguments.turns)
    sequences = torch.stack(rows)
    return {
        "sequences": sequences,
        "attention_mask": torch.ones_like(sequences),
        "action_mask": torch.tensor(masks)[:, 1:],
    }


def seconds(actor: Any, batch: dict[str, Any], repeats: int) -> float:
    """Best of ``repeats``, after one that warms up."""
    spent = []
    for _ in range(repeats + 1):
        actor.model.zero_grad()
        began = time.monotonic()
        log_probs, _ = actor(**batch, return_output=True, return_entropy=True)
        (log_probs * batch["action_mask"]).sum().backward()
        spent.append(time.monotonic() - began)
    return min(spent[1:])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--prompts", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--prompt-tokens", type=int, default=150)
    parser.add_argument("--reply-tokens", type=int, default=35)
    parser.add_argument("--user-tokens", type=int, default=25)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--model", default="embedded://smollm2-135m")
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(
        resolve_checkpoint(arguments.model), dtype=torch.float32, attn_implementation="sdpa"
    )
    actors = {"openrlhf": Actor(model), "packed": EpisodeActor(model)}
    for actor in actors.values():
        actor.temperature, actor.packing_samples = 1.0, False
    ratios: dict[str, float] = {}
    runs: list[dict[str, float]] = []
    table = Table(title="One micro-batch of episodes", title_justify="left")
    for column in ("episodes", "prompts", "fewer", "s OpenRLHF", "s packed", "faster"):
        table.add_column(column, justify="right")
    for prompts in arguments.prompts:
        batch = episodes(arguments, prompts, model.config.vocab_size)
        found = {name: seconds(actor, batch, arguments.repeats) for name, actor in actors.items()}
        count = batch["sequences"].numel()
        once = count - prompts * (arguments.samples - 1) * arguments.prompt_tokens
        ratios[f"faster_{prompts}"] = found["openrlhf"] / found["packed"]
        runs.append({"prompts": prompts, "fewer": count / once, **found})
        table.add_row(
            str(prompts * arguments.samples),
            str(prompts),
            f"{count / once:.2f}",
            f"{found['openrlhf']:.2f}",
            f"{found['packed']:.2f}",
            f"{ratios[f'faster_{prompts}']:.2f}",
        )
    Console().print(table)
    write_json(arguments, ratios, runs)


if __name__ == "__main__":
    main()
