"""Decided rounds as files: what a killed expansion is taken up from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from aloe.schema import ROUNDS
from aloe.storage import Store

FOLDER = "personas/rounds"


def write_round(store: Store, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write one decided round of one pool, all of its requests at once."""
    name = f"{FOLDER}/{rows[0]['pool']}-{rows[0]['round']:06d}.parquet"
    store.write_table(name, [dict(row) for row in rows], ROUNDS)


def read_rounds(store: Store) -> list[list[dict[str, Any]]]:
    """All decided rounds, one pool after the other, in order.

    Rounds at the end of a pool in which no request was answered are left out: what was down may
    be up again, and they are asked for once more.
    """
    rows = store.read_table(FOLDER, ROUNDS).to_pylist()
    rows.sort(key=lambda row: (row["pool"], row["round"], row["request"]))
    rounds: list[list[dict[str, Any]]] = []
    for _, pool in groupby(rows, key=lambda row: row["pool"]):
        of_pool = [list(group) for _, group in groupby(pool, key=lambda row: row["round"])]
        while of_pool and all(row["error_kind"] for row in of_pool[-1]):
            of_pool.pop()
        rounds += of_pool
    return rounds
