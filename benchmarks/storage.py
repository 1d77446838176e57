"""What each stage asks of S3 at many trees: requests and bytes, beside the bytes that it needs.

    python benchmarks/storage.py --trees 10000 --json FILE

Against moto's server on this machine. Tables are synthetic and written by the stages' own writers;
no model speaks. Needed are the compressed bytes of the columns and rows that a stage uses. The peer
opens the same files with s3fs as it comes (50 MiB ahead of each read), on some parts, scaled up.
Of the rollout's log some parts are written by its own writer, each tree's turns `--turn-s` apart on
average, and scaled up; so the ratio of requests holds for a rollout that is as fast.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from measuring import write_json
from rich.console import Console
from rich.table import Table

from aloe.config import Config, StorageConfig
from aloe.dialogue import parts
from aloe.dialogue.log import TurnLog, read_log, write_log
from aloe.dialogue.tree import Tree
from aloe.personas import Columns, import_personas
from aloe.preferences import build_preferences
from aloe.report.trees import choose_trees
from aloe.schema import NODES, PAIRS, PERSONAS, PROMPTS, SCORES, SFT
from aloe.storage import Manifest, Store, use_storage
from aloe.storage.slices import read_where
from aloe.storage.traffic import Traffic, traffic
from aloe.training.data import PAIR_COLUMNS, PAIRS_FILE, SFT_COLUMNS, SFT_FILE, count_rows

PERSONAS_FILE = "personas/personas.parquet"
PROMPTS_FILE = "preferences/prompts.parquet"
GIVEN_FILE = "given/data/train.parquet"
SAMPLE = 4
"""Parts of the peer and of the log."""
HELD_OUT, SCORED, DRAWN = 100, 300, 12
"""Personas held out, cases of three policies, trees in the report."""
MIB = 1 << 20


@dataclass
class Stage:
    """What one stage cost, and what of it was needed."""

    name: str
    cost: Traffic
    needed: float
    peer: float
    """Bytes that the peer reads."""


@contextmanager
def server() -> Iterator[StorageConfig]:
    """moto's server with a bucket, in a process of its own."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    os.environ |= {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing"}
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    endpoint = f"http://127.0.0.1:{port}"
    bucket = urllib.request.Request(f"{endpoint}/aloe", method="PUT")  # noqa: S310
    try:
        while True:
            try:
                urllib.request.urlopen(bucket).close()  # noqa: S310
                break
            except OSError:
                if process.poll() is not None:
                    raise
                time.sleep(0.2)
        yield StorageConfig(
            endpoint_url=endpoint, region="us-east-1", path_style=True, timeout_s=120
        )
    finally:
        process.terminate()
        process.wait()


def text(draw: random.Random, words: int) -> str:
    """Words of a small vocabulary, which compress about as text does."""
    return " ".join(f"word{int(draw.paretovariate(0.5)) % 20_000}" for _ in range(words))


def personas(draw: random.Random, trees: int) -> list[dict[str, Any]]:
    return [
        {
            "persona_id": f"{draw.getrandbits(64):016x}",
            "profile_id": f"{draw.getrandbits(64):016x}",
            "personality_id": f"{draw.getrandbits(64):016x}",
            "profile": text(draw, 60),
            "personality": text(draw, 50),
            "preferences": [],
            "split": "benchmark" if i >= trees else "validation" if i % 10 == 0 else "train",
        }
        for i in range(trees + HELD_OUT)
    ]


def tree(draw: random.Random, persona: dict[str, Any], turns: int) -> list[dict[str, Any]]:
    """Rows of NODES of a tree with a spine of ``turns``."""
    tree_id = f"{draw.getrandbits(64):016x}"
    answered: str | None = None
    rows: list[dict[str, Any]] = []
    shared = {key: persona[key] for key in ("persona_id", "profile", "personality", "split")}
    for turn in range(1, turns + 1):
        for role in ("user", "guided", "unguided"):
            won = role == "guided" if role != "user" else None
            parent = answered if won is None else rows[-1 if role == "guided" else -2]["node_id"]
            rows.append(
                {
                    **shared,
                    "tree_id": tree_id,
                    "node_id": f"{draw.getrandbits(64):016x}",
                    "parent_id": parent,
                    "turn": turn,
                    "branch": 1 << (turn - 1),
                    "role": role,
                    "sample": None if won is None else 0,
                    "text": text(draw, 30),
                    "finish_reason": "stop",
                    "on_spine": role != "unguided",
                    "preferred": won,
                    "judge_probability": None if won is None else 0.8 if won else 0.2,
                    "judge_shown_first": None if won is None else 0.8 if won else 0.2,
                    "judge_agrees": None if won is None else True,
                    "induced_profile": text(draw, 15) if won is None else None,
                    "induced_personality": text(draw, 15) if won is None else None,
                    "preferences": [],
                    "seed": 0,
                    "fingerprint": "benchmark",
                    "calls": [call(draw, role)],
                }
            )
        answered = rows[-2]["node_id"]
    return rows


def call(draw: random.Random, role: str) -> dict[str, Any]:
    return {
        "role": role,
        "model": "model",
        "finish_reason": "stop",
        "tries": 1,
        "prompt_tokens": draw.randrange(2000),
        "cached_tokens": draw.randrange(1000),
        "reusable_tokens": draw.randrange(1000),
        "completion_tokens": draw.randrange(300),
        "seconds": draw.random(),
        "cost_usd": 0.0,
        "replaced": 0,
    }


def needed(store: Store, name: str, columns: Sequence[str] | None = None, part: float = 1) -> float:
    """Compressed bytes of some columns of a file, of ``part`` of its rows."""
    with store.fs.open(store.path(name), cache_type="none") as file:
        metadata = pq.read_metadata(file)
    groups = map(metadata.row_group, range(metadata.num_row_groups))
    chunks = (group.column(i) for group in groups for i in range(group.num_columns))
    return part * sum(
        chunk.total_compressed_size
        for chunk in chunks
        if columns is None or chunk.path_in_schema.partition(".")[0] in columns
    )


def opened(store: Store, name: str, groups: Sequence[int] | None, columns: list[str]) -> pa.Table:
    """Read as s3fs does when it is not told better."""
    with store.fs.open(store.path(name), "rb") as file:
        parquet = pq.ParquetFile(file)
        every = range(parquet.num_row_groups)
        return parquet.read_row_groups(list(every if groups is None else groups), columns)


def measured(work: Callable[[], Any]) -> tuple[Any, Traffic]:
    before = traffic()
    found = work()
    return found, traffic() - before


def roll_out(
    store: Store, config: Config, people: list[dict[str, Any]], turns: int
) -> tuple[parts.Plan, Traffic]:
    """The rollout without its log: every part is begun, read, written and added up."""
    draw = random.Random(2)

    def work() -> parts.Plan:
        plan = parts.begin_plan(store, config.dialogue)
        for number in parts.missing_parts(store, plan):
            name = plan.name(number)
            chosen = parts.read_personas(store, plan.personas(number))
            read_log(store, name)
            parts.count_start(store, name, 0)
            trees = [Tree(tree(draw, row, turns), []) for row in chosen]
            parts.write_part(store, name, trees, config.dialogue)
        parts.total(store)
        return plan

    return measured(work)


def log(store: Store, people: list[dict[str, Any]], turns: int, turn_s: float) -> Traffic:
    """The log of a part of these people's trees, all open at once."""
    draw = random.Random(3)

    async def write(number: int, rows: list[dict[str, Any]], ends: list[dict[str, Any]]) -> None:
        await asyncio.to_thread(write_log, store, "logged", number, rows, ends)

    async def grow(log: TurnLog, rows: list[dict[str, Any]]) -> None:
        for first in range(0, len(rows), 3):
            await asyncio.sleep(draw.expovariate(1 / turn_s))
            await log.keep(rows[first : first + 3])

    async def part() -> None:
        log = TurnLog(write, 0, remote=True)
        await asyncio.gather(*(grow(log, tree(draw, persona, turns)) for persona in people))
        await log.close()

    return measured(lambda: asyncio.run(part()))[1]


def import_given(arguments: argparse.Namespace, store: Store) -> Stage:
    """Personas that people bring: two columns of twelve, from a folder as the hub has it."""
    draw, wanted = random.Random(6), ["uuid", "persona"]
    columns = {name: [text(draw, 30) for _ in range(arguments.trees)] for name in "abcdefghij"}
    columns["persona"] = [text(draw, 60) for _ in range(arguments.trees)]
    columns["uuid"] = [f"{draw.getrandbits(64):016x}" for _ in range(arguments.trees)]
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink, row_group_size=1000)
    store.write_bytes(GIVEN_FILE, sink.getvalue().to_pybytes())
    with TemporaryDirectory() as folder:
        out, chosen = f"{folder}/personas.jsonl", Columns(["persona"], [], "uuid")
        _, cost = measured(lambda: import_personas([store.url("given")], out, chosen))
    _, peer = measured(lambda: opened(store, GIVEN_FILE, None, wanted))
    return Stage("import", cost, needed(store, GIVEN_FILE, wanted), peer.read)


def stages(arguments: argparse.Namespace, store: Store, config: Config) -> Iterator[Stage]:
    trees = arguments.trees
    yield import_given(arguments, store)
    people = personas(random.Random(1), trees)
    group = config.dialogue.trees_per_part(trees)
    _, cost = measured(lambda: store.write_table(PERSONAS_FILE, people, PERSONAS, row_group=group))
    Manifest("personas", {}, "fixed", complete=True).save(store)
    yield Stage("personas", cost, 0, 0)

    plan, cost = roll_out(store, config, people, arguments.turns)
    Manifest("dialogue", {}, "fixed", complete=True, counts={"trees": trees}).save(store)
    _, peer = measured(
        lambda: [opened(store, PERSONAS_FILE, [part], PERSONAS.names) for part in range(SAMPLE)]
    )
    share = trees / (trees + HELD_OUT)
    all_needed = needed(store, PERSONAS_FILE, part=share)
    yield Stage("dialogue", cost, all_needed, peer.read / SAMPLE * plan.parts)

    _, cost = measured(lambda: build_preferences(config, store))
    columns = [name for name in NODES.names if name != "calls"]
    files = [f"dialogue/nodes/{plan.name(part)}.parquet" for part in range(plan.parts)]
    _, peer = measured(lambda: [opened(store, name, None, columns) for name in files[:SAMPLE]])
    all_needed = sum(needed(store, name, columns) for name in files)
    yield Stage("preferences", cost, all_needed, peer.read / SAMPLE * plan.parts)

    rows = {
        SFT_FILE: (SFT, SFT_COLUMNS),
        PAIRS_FILE: (PAIRS, PAIR_COLUMNS),
        PROMPTS_FILE: (PROMPTS, PROMPTS.names),  # PPO talks with all that is there
    }

    def read_rows() -> None:
        for file, (schema, wanted) in rows.items():
            count_rows(store, file, schema)
            store.read_table(file, schema, wanted)

    _, cost = measured(read_rows)
    _, peer = measured(
        lambda: [opened(store, file, None, wanted) for file, (_, wanted) in rows.items()]
    )
    all_needed = sum(
        needed(store, file, wanted) + needed(store, file, ["split"])
        for file, (_, wanted) in rows.items()
    )
    yield Stage("training", cost, all_needed, peer.read)

    draw = random.Random(4)
    scores = [
        {"case_id": f"{i}", "turn": turn, "user": text(draw, 30), "reply": text(draw, 30)}
        for i in range(SCORED)
        for turn in range(10)
    ]

    def evaluate() -> None:
        read_where(store, PERSONAS_FILE, PERSONAS, "split", "benchmark")
        for i in range(SCORED):
            case = scores[10 * i : 10 * i + 10]
            for done in range(1, len(case)):
                store.write_table(f"evaluation/open/{i}.parquet", case[:done], SCORES)
            store.write_table(f"evaluation/scores/{i}.parquet", case, SCORES)
        store.read_table("evaluation/scores", SCORES)

    _, cost = measured(evaluate)
    _, peer = measured(lambda: opened(store, PERSONAS_FILE, None, PERSONAS.names))
    score_bytes = float(store.fs.du(store.path("evaluation/scores")))
    heldout = needed(store, PERSONAS_FILE, part=1 - share)
    yield Stage("evaluation", cost, heldout + score_bytes, peer.read + score_bytes)

    _, cost = measured(lambda: choose_trees(store, DRAWN, 0))
    all_needed = sum(needed(store, name) for name in files[:DRAWN])
    yield Stage("report", cost, all_needed, 2 * DRAWN * needed(store, files[0]))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--trees", type=int, default=10_000)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--turn-s", type=float, default=5.0, help="seconds of a turn, on average")
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    arguments = parser.parse_args()
    demo = Path(__file__).parent.parent / "configs" / "demo.yaml"
    values = yaml.safe_load(demo.read_text())
    values["dialogue"] = {"turns": arguments.turns}
    with server() as options:
        use_storage(options)
        store = Store("s3://aloe/run", options)
        found = []
        table = Table("stage", "requests", "MiB read", "needed", "peer", "MiB written")
        config = Config.model_validate(values)
        for stage in stages(arguments, store, config):
            found.append(stage)
            sizes = (stage.cost.read, stage.needed, stage.peer, stage.cost.written)
            table.add_row(
                stage.name, str(stage.cost.total), *(f"{size / MIB:.2f}" for size in sizes)
            )
        people = personas(random.Random(5), config.dialogue.trees_per_part(arguments.trees))
        people = people[:-HELD_OUT]
        logged = log(store, people, arguments.turns, arguments.turn_s)
        log_requests = logged.total / len(people)
    read, wanted = sum(s.cost.read for s in found), sum(s.needed for s in found)
    ratios = {
        "read_amplification": read / wanted,
        "requests_per_tree": sum(s.cost.total for s in found) / arguments.trees + log_requests,
    }
    console = Console(width=100)
    console.print(table)
    console.print(f"{ratios}; peer {sum(s.peer for s in found) / wanted:.1f} times what is needed")
    console.print(f"of these for the log of open trees: {log_requests:.2f} requests per tree")
    runs = [{**s.__dict__, "cost": s.cost.__dict__} for s in found]
    write_json(arguments, ratios, {"stages": runs, "log_requests_per_tree": log_requests})


if __name__ == "__main__":
    main()
