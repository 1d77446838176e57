"""Decided rounds as files: what a killed expansion is taken up from. Read one at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aloe.personas.growth import START, pool_rows
from aloe.personas.lexicon import KINDS, Kind
from aloe.schema import ROUNDS
from aloe.storage import Store, Usage

FOLDER = "personas/rounds"

Round = list[dict[str, Any]]
"""Rows of `aloe.schema.ROUNDS` of one round of one pool, in request order."""


def write_round(store: Store, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write one decided round of one pool, all of its requests at once."""
    name = f"{FOLDER}/{rows[0]['pool']}-{rows[0]['round']:06d}.parquet"
    store.write_table(name, [dict(row) for row in rows], ROUNDS)


def round_names(store: Store) -> dict[Kind, list[str]]:
    """Names of each pool's decided rounds, in order, from the one that it starts with."""
    found = sorted(store.finished(FOLDER))
    return {kind: [name for name in found if name.startswith(f"{kind}-")] for kind in KINDS}


def read_rounds(store: Store, names: Iterable[str]) -> Iterator[Round]:
    """The rounds of these names, one in memory at a time."""
    for name in names:
        rows = store.read_table(f"{FOLDER}/{name}.parquet", ROUNDS).to_pylist()
        yield sorted(rows, key=lambda row: int(row["request"]))


def without_failed_end(store: Store, names: Sequence[str]) -> list[str]:
    """Leave out a pool's last rounds if no request of theirs was answered.

    What was down may be up again: a stage that is taken up asks for them once more.
    """
    kept = list(names)
    while kept and all(row["error_kind"] for rows in read_rounds(store, kept[-1:]) for row in rows):
        kept.pop()
    return kept


@dataclass
class Record:
    """What all rounds of both pools come to."""

    members: list[dict[str, Any]] = field(default_factory=list)
    """Rows of `aloe.schema.POOL`, pool by pool in the order in which they joined."""
    failed: list[dict[str, Any]] = field(default_factory=list)
    """Rows of ROUNDS whose request failed; they have no candidates."""
    asked: int = 0
    """Requests to the writer."""
    verdicts: Counter[str] = field(default_factory=Counter)
    """Candidates that the writer brought, by what became of them."""
    usage: Usage = field(default_factory=Usage)


def record_of(rounds: Iterable[Round]) -> Record:
    """Read all rounds once."""
    record = Record()
    for rows in rounds:
        record.members += pool_rows(rows)
        record.failed += [row for row in rows if row["error_kind"]]
        record.usage += Usage.of_calls(call for row in rows for call in row["calls"])
        written = [row for row in rows if row["round"] != START]
        record.asked += len(written)
        record.verdicts.update(c["verdict"] for row in written for c in row["candidates"])
    return record
