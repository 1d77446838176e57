"""Pairs a second and peak memory of DPO on the pairs of long dialogues, beside OpenRLHF and TRL.

    python benchmarks/dpo_step.py --trees 2 --turns 10 --json FILE

Variants, each in processes of its own, in rotated order, on the same model and pairs:
  packed      this project: a tree in one forward pass, the reference's log-probs computed before
  plain       this project: one sequence per reply, the reference in a placement of its own
  openrlhf    OpenRLHF's ``train_dpo``: its command line, both models in one process
  trl         TRL's DPOTrainer, log-probs of the reference computed before, as fast for one epoch

One step takes all pairs, so that the losses of all variants can be compared step by step; the first
step of each variant warms up and is left out. Pairs a second are those of a first epoch: a
variant that computes the reference before the first step pays for that pass. ``later`` leaves it
out, as for all epochs after the first. ``--micro`` gives a peer's rows per forward pass; the
defaults were the fastest of 1, 2, 5 and 10 on a CPU (benchmarks/RESULTS.md).
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any

from dpo_pairs import fresh_folders, pairs, peer, train
from measuring import rotated, write_json
from rich.console import Console
from rich.table import Table

from aloe.engines.embedded import resolve_checkpoint

PEERS = ("openrlhf", "trl")


def run(
    name: str, arguments: argparse.Namespace, rows: list[dict[str, Any]], folder: Path
) -> dict[str, Any]:
    """One run of a variant; see `dpo_pairs.train`."""
    size = arguments.trees * arguments.turns
    if name in ("packed", "plain"):
        micro = size if name == "packed" else arguments.micro_plain
        options = {
            "batch_size": size,
            "micro_batch_size": min(micro, arguments.turns),
            "epochs": arguments.epochs,
            "max_len": arguments.max_len,
            "learning_rate": 1e-5,
            "warmup_ratio": 0,
            "beta": 0.1,
            "zero_stage": 0,
            "checkpoint_steps": None,
            "tree_packing": name == "packed",
            "reference": "precomputed" if name == "packed" else "placed",
        }
        found = train(folder, rows, arguments.model, options)
    else:
        micro = getattr(arguments, f"micro_{name}")
        settings = {
            "--model": resolve_checkpoint(arguments.model),
            "--batch-size": size,
            "--micro": micro,
            "--epochs": arguments.epochs,
            "--max-len": arguments.max_len,
        }
        words = [word for pair in settings.items() for word in pair]
        extra = ["--precompute"] if name == "trl" else []
        found = peer(f"dpo_{name}.py", folder, rows, *words, *extra)
    step = statistics.median(found["steps"][1:])
    return found | {
        "pairs_per_second": size / (step + found["reference_seconds"]),
        "pairs_per_second_later": size / step,
    }


def show(results: dict[str, list[dict[str, Any]]], ratios: dict[str, float]) -> None:
    table = Table(title="DPO, medians over runs", title_justify="left")
    for column in ("variant", "pairs/s", "later", "peak GiB", "losses of the steps"):
        table.add_column(column)
    for name, runs in results.items():
        table.add_row(
            name,
            f"{of(runs, 'pairs_per_second'):.3f}",
            f"{of(runs, 'pairs_per_second_later'):.3f}",
            f"{of(runs, 'peak_gib'):.2f}",
            " ".join(f"{loss:.5f}" for loss in runs[0]["losses"]),
        )
    console = Console()
    console.print(table)
    console.print(", ".join(f"{name} {ratio:.3g}" for name, ratio in sorted(ratios.items())))


def of(runs: list[dict[str, Any]], key: str) -> float:
    return statistics.median(run[key] for run in runs)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--trees", type=int, default=2)
    parser.add_argument("--turns", type=int, default=10)
    parser.add_argument("--user-words", type=int, default=15)
    parser.add_argument("--reply-words", type=int, default=30)
    parser.add_argument("--epochs", type=int, default=3, help="steps: one takes all pairs")
    parser.add_argument("--max-len", type=int, default=4096)
    parser.add_argument("--model", default="embedded://smollm2-135m")
    parser.add_argument("--variants", nargs="+", default=["packed", "plain", *PEERS])
    parser.add_argument("--micro-plain", type=int, default=1)
    parser.add_argument("--micro-openrlhf", type=int, default=1)
    parser.add_argument("--micro-trl", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    arguments = parser.parse_args()
    sizes = (arguments.trees, arguments.turns, arguments.user_words, arguments.reply_words)
    rows = list(pairs(*sizes))
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in arguments.variants}
    with tempfile.TemporaryDirectory(prefix="aloe-dpo-step-") as root:
        folders = fresh_folders(Path(root))
        for repeat in range(arguments.repeats):
            for name in rotated(arguments.variants, repeat):
                results[name].append(run(name, arguments, rows, next(folders)))
    ratios: dict[str, float] = {}
    if "packed" in results:
        for name in set(results) - {"packed"}:
            for suffix in ("", "_later"):
                key = f"pairs_per_second{suffix}"
                ratios[f"{name}{suffix}"] = of(results["packed"], key) / of(results[name], key)
            first, second = (runs[0]["losses"] for runs in (results["packed"], results[name]))
            difference = max(abs(a - b) for a, b in zip(first, second, strict=True))
            ratios[f"{name}_loss_difference"] = difference
    show(results, ratios)
    write_json(arguments, ratios, results)


if __name__ == "__main__":
    main()
