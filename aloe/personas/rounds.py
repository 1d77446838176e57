"""Decided rounds as files: what a killed expansion is taken up from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from aloe.schema import ROUNDS
from aloe.storage import Store

FOLDER = "personas/rounds"

Round = list[dict[str, Any]]
"""Rows of `aloe.schema.ROUNDS` of one round of one pool, in request order."""


def write_round(store: Store, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write one decided round of one pool, all of its requests at once."""
    name = f"{FOLDER}/{rows[0]['pool']}-{rows[0]['round']:06d}.parquet"
    store.write_table(name, [dict(row) for row in rows], ROUNDS)


def read_rounds(store: Store) -> list[Round]:
    """All decided rounds, one pool after the other, in order."""
    rows = store.read_table(FOLDER, ROUNDS).to_pylist()
    rows.sort(key=lambda row: (row["pool"], row["round"], row["request"]))
    return [list(group) for _, group in groupby(rows, lambda row: (row["pool"], row["round"]))]


def without_failed_end(rounds: list[Round]) -> list[Round]:
    """Leave out each pool's last rounds if no request of theirs was answered.

    What was down may be up again: a stage that is taken up asks for them once more.
    """
    kept: list[Round] = []
    for _, pool in groupby(rounds, lambda rows: rows[0]["pool"]):
        of_pool = list(pool)
        while of_pool and all(row["error_kind"] for row in of_pool[-1]):
            of_pool.pop()
        kept += of_pool
    return kept
