"""A run's data in the formats of other tools."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

from aloe.preferences.card import dataset_card
from aloe.preferences.rows import Node, split_trees, walk
from aloe.schema import NODES, PAIRS, SFT
from aloe.storage import Store, require_stage


def export_run(store: Store, kind: str, target: Store) -> list[str]:
    """Write a run's preference data in another tool's format.

    Args:
        kind: one of `FORMATS`. ``aloe``: the published JSONL, one conversation per line.
            ``openrlhf``: JSONL for its SFT and DPO command lines. ``trl``: conversational JSONL for
            SFTTrainer and DPOTrainer. ``hf``: a folder that `datasets.load_dataset` opens.
        target: where to write; existing files of the same name are replaced.

    Returns:
        Names of the files written.

    Raises:
        UserError: the run has no finished preferences.
    """
    require_stage(store, "preferences")
    files = FORMATS[kind](store)
    for name, data in files.items():
        target.write_bytes(name, data)
    return list(files)


def _aloe(store: Store) -> dict[str, bytes]:
    columns = [name for name in NODES.names if name != "calls"]
    nodes = store.read_table("dialogue/nodes", NODES, columns).to_pylist()
    by_split: dict[str, list[dict[str, Any]]] = {}
    for tree in split_trees(nodes):
        by_split.setdefault(tree[0]["split"], []).append(published_conversation(tree))
    return {f"{split}.jsonl": _jsonl(rows) for split, rows in sorted(by_split.items())}


def published_conversation(tree: list[Node]) -> dict[str, Any]:
    """One tree with the field names of the published data set."""
    turns = []
    for view in walk(tree):
        spine = view.preferred if view.preferred["on_spine"] else view.rejected
        turns.append(
            {
                "user": view.user["text"],
                "assistant": {
                    "preferred": view.preferred["text"],
                    "rejected": view.rejected["text"],
                },
                "chosen": "preferred" if spine is view.preferred else "rejected",
                "inferred_profile": view.user["induced_profile"] or "None",
                "inferred_personality": view.user["induced_personality"] or "None",
            }
        )
    root = tree[0]
    return {
        "profile": root["profile"],
        "personality": root["personality"],
        "conversations": turns,
    }


def _openrlhf(store: Store) -> dict[str, bytes]:
    return _conversations(store, "response")


def _trl(store: Store) -> dict[str, bytes]:
    return _conversations(store, "completion")


def _hf(store: Store) -> dict[str, bytes]:
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    files: dict[str, bytes] = {}
    sizes: dict[str, dict[str, int]] = {}
    for name, schema in (("pairs", PAIRS), ("sft", SFT)):
        table = store.read_table(f"preferences/{name}.parquet", schema)
        for split in ("train", "validation"):
            part = table.filter(pc.equal(table["split"], split))
            sink = pa.BufferOutputStream()
            pq.write_table(part, sink, compression="zstd")
            files[f"{name}/{split}.parquet"] = sink.getvalue().to_pybytes()
            sizes.setdefault(name, {})[split] = part.num_rows
    files["README.md"] = dataset_card(store, sizes).encode()
    return files


def _conversations(store: Store, answer_key: str) -> dict[str, bytes]:
    """JSONL of chat messages; SFT rows keep the answer under ``answer_key``."""
    sft = [
        (row["split"], {"prompt": row["prompt"], answer_key: [_assistant(row["response"])]})
        for row in store.read_table("preferences/sft.parquet", SFT).to_pylist()
    ]
    pairs = [
        (
            row["split"],
            {
                "prompt": row["prompt"],
                "chosen": [_assistant(row["preferred"])],
                "rejected": [_assistant(row["rejected"])],
            },
        )
        for row in store.read_table("preferences/pairs.parquet", PAIRS).to_pylist()
    ]
    return {
        f"{name}_{split}.jsonl": _jsonl(row for of, row in rows if of == split)
        for name, rows in (("sft", sft), ("dpo", pairs))
        for split in ("train", "validation")
    }


def _assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def _jsonl(rows: Iterable[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


FORMATS: dict[str, Callable[[Store], dict[str, bytes]]] = {
    "aloe": _aloe,
    "openrlhf": _openrlhf,
    "trl": _trl,
    "hf": _hf,
}
"""Export formats by name."""
