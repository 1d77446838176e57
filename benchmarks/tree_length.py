"""Memory and speed of DPO against the length of a dialogue, packed as trees and one by one.

    python benchmarks/tree_length.py --turns 2 5 10 20 --json FILE

Variants at each length, with the same pairs in one step:
  packed   all turns of a tree in one forward pass, each token once
  plain    one sequence per reply, ``--micro`` pairs to a forward pass

The reference's log-probs are computed before, and not counted. ``fewer`` is the ratio of tokens:
the most that packing could be faster if every token cost the same.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any

from dpo_pairs import fresh_folders, pairs, train
from measuring import write_json
from rich.console import Console
from rich.table import Table

VARIANTS = ("packed", "plain")


def run(name: str, turns: int, arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """One step's medians; see `dpo_pairs.train`."""
    rows = list(pairs(1, turns, arguments.user_words, arguments.reply_words))
    options = {
        "batch_size": turns,
        "micro_batch_size": turns if name == "packed" else arguments.micro,
        "epochs": arguments.epochs,
        "max_len": 8192,
        "learning_rate": 1e-5,
        "warmup_ratio": 0,
        "beta": 0.1,
        "zero_stage": 0,
        "checkpoint_steps": None,
        "tree_packing": name == "packed",
    }
    found = train(folder, rows, arguments.model, options)
    return found | {"turns": turns, "step_seconds": statistics.median(found["steps"][1:])}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--turns", type=int, nargs="+", default=[2, 5, 10, 20])
    parser.add_argument("--user-words", type=int, default=10)
    parser.add_argument("--reply-words", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=2, help="steps; the first is left out")
    parser.add_argument("--micro", type=int, default=1)
    parser.add_argument("--model", default="embedded://smollm2-135m")
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    arguments = parser.parse_args()
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in VARIANTS}
    ratios: dict[str, float] = {}
    table = Table(title="One DPO step on one tree", title_justify="left")
    for column in ("turns", "tokens", "fewer", "s packed", "s plain", "faster", "GiB", "GiB plain"):
        table.add_column(column, justify="right")
    with tempfile.TemporaryDirectory(prefix="aloe-tree-length-") as root:
        folders = fresh_folders(Path(root))
        for turns in arguments.turns:
            packed, plain = (run(name, turns, arguments, next(folders)) for name in VARIANTS)
            results["packed"].append(packed)
            results["plain"].append(plain)
            ratios[f"faster_{turns}"] = plain["step_seconds"] / packed["step_seconds"]
            ratios[f"memory_{turns}"] = plain["peak_gib"] / packed["peak_gib"]
            table.add_row(
                str(turns),
                f"{packed['tokens']:.0f}",
                f"{packed['tokens'] / packed['computed_tokens']:.2f}",
                f"{packed['step_seconds']:.2f}",
                f"{plain['step_seconds']:.2f}",
                f"{ratios[f'faster_{turns}']:.2f}",
                f"{packed['peak_gib']:.2f}",
                f"{plain['peak_gib']:.2f}",
            )
    Console().print(table)
    write_json(arguments, ratios, results)


if __name__ == "__main__":
    main()
