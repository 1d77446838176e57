"""``--retry-failed``: branches that a failed call has ended are owed again."""

from __future__ import annotations

from itertools import count

from aloe.dialogue import parts
from aloe.dialogue.parts import STAGE, Row
from aloe.dialogue.rows import CONTEXT
from aloe.schema import ERRORS, NODES
from aloe.storage import Store


def retry_failed(store: Store) -> int:
    """Reopen what failed; trees keep what they have. Returns how many branches are owed again.

    Dialogues that have outgrown a model's context stay ended. What the failed calls cost stays
    counted.
    """
    owed = 0
    final = set(store.names(STAGE, "parts"))
    for part in sorted(store.finished(STAGE, "errors")):
        if f"{part}.json" in final:
            owed += _reopen(store, part)
    for part in store.names(STAGE, "open"):
        owed += _forget_ends(store, part)
    return owed


def _reopen(store: Store, part: str) -> int:
    """Make a final part an open one, if something in it failed."""
    ends = store.read_table(f"{STAGE}/errors/{part}.parquet", ERRORS).to_pylist()
    if all(row["kind"] == CONTEXT for row in ends):
        return 0
    trees: dict[str, list[Row]] = {}
    for row in store.read_table(f"{STAGE}/nodes/{part}.parquet", NODES).to_pylist():
        trees.setdefault(row["tree_id"], []).append(row)
    for tree, rows in trees.items():
        parts.log_turns(store, part, tree, rows)
    for tree in {row["item_id"] for row in ends}:
        parts.log_ends(store, part, tree, [row for row in ends if row["item_id"] == tree])
    store.remove(f"{STAGE}/parts/{part}.json")
    return 0  # its ends are those of an open part now


def _forget_ends(store: Store, part: str) -> int:
    _, ends = parts.read_log(store, part)
    failed = [row for rows in ends.values() for row in rows if row["kind"] != CONTEXT]
    if not failed:
        return 0
    there = store.finished(STAGE, "retried")
    name = next(name for n in count() if (name := f"{part}-{n}") not in there)
    store.write_table(f"{STAGE}/retried/{name}.parquet", failed, ERRORS)
    for tree, rows in ends.items():
        outgrown = [row for row in rows if row["kind"] == CONTEXT]
        if outgrown:
            parts.log_ends(store, part, tree, outgrown)
        else:
            store.remove(f"{STAGE}/open/{part}/{tree}.ends")
    parts.forget_start(store, part)
    return len(failed)
