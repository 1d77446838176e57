"""``--retry-failed``: branches that a failed call has ended are owed again."""

from __future__ import annotations

from aloe.dialogue import parts
from aloe.dialogue.log import STAGE, read_log, write_log
from aloe.dialogue.rows import CONTEXT
from aloe.schema import ERRORS, NODES, stable_id
from aloe.storage import Store


def retry_failed(store: Store) -> int:
    """Reopen what failed; trees keep what they have. Returns how many branches are owed again.

    Dialogues that have outgrown a model's context stay ended. What the failed calls cost stays
    counted.
    """
    final = set(store.names(STAGE, "parts"))
    for part in sorted(store.finished(STAGE, "errors")):
        if f"{part}.json" in final:
            _reopen(store, part)
    return sum(_forget_ends(store, part) for part in store.names(STAGE, "open"))


def _reopen(store: Store, part: str) -> None:
    """Make a final part an open one, if something in it failed."""
    ends = store.read_table(f"{STAGE}/errors/{part}.parquet", ERRORS).to_pylist()
    if all(row["kind"] == CONTEXT for row in ends):
        return
    turns = store.read_table(f"{STAGE}/nodes/{part}.parquet", NODES).to_pylist()
    write_log(store, part, 0, turns, ends)
    store.remove(f"{STAGE}/parts/{part}.json")


def _forget_ends(store: Store, part: str) -> int:
    log = read_log(store, part)
    ends = [row for rows in log.ends.values() for row in rows]
    failed = [row for row in ends if row["kind"] != CONTEXT]
    if not failed:
        return 0
    before = [name for name in store.names(STAGE, "open", part) if name.endswith(".ends")]
    # By its content: a kill before the next lines leads to the same file again.
    name = f"{part}-{stable_id(failed)}"
    store.write_table(f"{STAGE}/retried/{name}.parquet", failed, ERRORS)
    write_log(store, part, log.files, (), [row for row in ends if row["kind"] == CONTEXT])
    for stale in before:
        store.remove(STAGE, "open", part, stale)
    parts.forget_start(store, part)
    return len(failed)
