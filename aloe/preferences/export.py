"""A run's data in the formats of other tools. All of them are written row by row."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from aloe.errors import UserError
from aloe.preferences.card import dataset_card, published_card
from aloe.preferences.rows import Node, read_trees, walk
from aloe.schema import PAIRS, SFT
from aloe.storage import Store, require_stage
from aloe.storage.tables import Row, new_file, new_table, read_rows

_SPLITS = ("train", "validation")


def export_run(store: Store, kind: str, target: Store) -> list[str]:
    """Write a run's preference data in another tool's format.

    Args:
        kind: one of `FORMATS`. ``aloe``: the published JSONL, one conversation per line, which is
            the spine of a tree. ``openrlhf``: JSONL for its SFT and DPO command lines. ``trl``:
            conversational JSONL for SFTTrainer and DPOTrainer. ``hf``: a folder that
            `datasets.load_dataset` opens. All but ``aloe`` hold the pairs of all branches.
        target: where to write; existing files of the same name are replaced.

    Returns:
        Names of the files written.

    Raises:
        UserError: the run has no finished preferences, or nothing can be written there.
        WorldFault: the disk is full.
    """
    require_stage(store, "preferences")
    try:
        return FORMATS[kind](store, target)
    except OSError as error:
        raise UserError(f"{target.root}: cannot be written ({error.strerror or error})") from error


def _aloe(store: Store, target: Store) -> list[str]:
    lines: dict[str, Callable[[Row], None]] = {}
    sizes: Counter[str] = Counter()
    left_out = 0
    with ExitStack() as open_files:
        for tree in read_trees(store):
            split = tree[0]["split"]
            if split not in lines:
                lines[split] = open_files.enter_context(_new_jsonl(target, f"{split}.jsonl"))
            lines[split](published_conversation(tree))
            sizes[split] += 1
            left_out += sum(node["role"] == "user" and not node["on_spine"] for node in tree)
    target.write_text("README.md", published_card(dict(sizes), left_out))
    return [*(f"{split}.jsonl" for split in sorted(lines)), "README.md"]


def published_conversation(tree: list[Node]) -> dict[str, Any]:
    """The spine of one tree, with the field names of the published data set.

    A tree that goes on from a given conversation has that as ``history``.
    """
    if any(node["selected"] is not None for node in tree):
        raise UserError(
            f"tree {tree[0]['tree_id']}: its replies were selected (dialogue.select), not "
            "judged in pairs as in the published data set; expected --format hf, trl or openrlhf"
        )
    turns = [
        {
            "user": view.user["text"],
            "assistant": {
                "preferred": view.preferred["text"],
                # A tie prefers nothing: both are what the conversation goes on with.
                "rejected": (view.preferred if view.tie else view.rejected)["text"],
            },
            "chosen": "preferred" if view.preferred["on_spine"] else "rejected",
            "inferred_profile": view.user["induced_profile"] or "None",
            "inferred_personality": view.user["induced_personality"] or "None",
        }
        for view in walk(tree)
        if view.on_spine
    ]
    root = tree[0]
    return {
        **({"history": root["history"]} if root["history"] else {}),
        "profile": root["profile"],
        "personality": root["personality"],
        "conversations": turns,
    }


def _openrlhf(store: Store, target: Store) -> list[str]:
    return _conversations(store, target, "response")


def _trl(store: Store, target: Store) -> list[str]:
    return _conversations(store, target, "completion")


def _hf(store: Store, target: Store) -> list[str]:
    names: list[str] = []
    sizes: dict[str, Counter[str]] = {}
    for name, schema in (("pairs", PAIRS), ("sft", SFT)):
        files = {split: f"{name}/{split}.parquet" for split in _SPLITS}
        sizes[name] = Counter(dict.fromkeys(_SPLITS, 0))
        with ExitStack() as open_files:
            add = {
                split: open_files.enter_context(new_table(target, file, schema))
                for split, file in files.items()
            }
            for row in read_rows(store, f"preferences/{name}.parquet", schema):
                add[row["split"]]([row])
                sizes[name][row["split"]] += 1
        names += files.values()
    target.write_text("README.md", dataset_card(store, sizes))
    return [*names, "README.md"]


def _conversations(store: Store, target: Store, answer_key: str) -> list[str]:
    """JSONL of chat messages; SFT rows keep the answer under ``answer_key``.

    ``ended`` and its like are false for a reply that ``max_tokens`` cut: a trainer that writes an
    end of turn after each message should leave such rows out.
    """

    def sft(row: Row) -> Row:
        return {
            "prompt": row["prompt"],
            answer_key: [_assistant(row["response"])],
            "ended": row["ended"],
        }

    def dpo(row: Row) -> Row:
        return {
            "prompt": row["prompt"],
            "chosen": [_assistant(row["preferred"])],
            "rejected": [_assistant(row["rejected"])],
            "chosen_ended": row["preferred_ended"],
            "rejected_ended": row["rejected_ended"],
        }

    names: list[str] = []
    for name, table, schema, convert in (("sft", "sft", SFT, sft), ("dpo", "pairs", PAIRS, dpo)):
        files = {split: f"{name}_{split}.jsonl" for split in _SPLITS}
        with ExitStack() as open_files:
            add = {
                split: open_files.enter_context(_new_jsonl(target, file))
                for split, file in files.items()
            }
            for row in read_rows(store, f"preferences/{table}.parquet", schema):
                add[row["split"]](convert(row))
        names += files.values()
    return names


def _assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


@contextmanager
def _new_jsonl(target: Store, name: str) -> Iterator[Callable[[Row], None]]:
    """A function that adds a line to a file, which is there when the block ends."""
    with new_file(target, name) as path, path.open("w", encoding="utf-8", newline="\n") as file:

        def add(row: Row) -> None:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")

        yield add


FORMATS: dict[str, Callable[[Store, Store], list[str]]] = {
    "aloe": _aloe,
    "openrlhf": _openrlhf,
    "trl": _trl,
    "hf": _hf,
}
"""Export formats by name: each writes its files to the second store and returns their names."""
