"""Log-probs of the frozen reference, kept: they are computed once for all epochs, runs and resumes.

<folder>/<checkpoint>/<part>.parquet    rows of `aloe.schema.REFERENCE`
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from aloe.schema import REFERENCE, stable_id
from aloe.storage import Store
from aloe.training.data import Row

Sums = tuple[float, float]
"""Summed log-probs of the preferred and of the rejected reply."""


def read_reference(store: Store, checkpoint: str) -> dict[str, Sums]:
    """What is known of a checkpoint, by `tokens_of` a pair; nothing if it was never asked.

    Raises:
        UserError: a file was written with another schema version.
    """
    columns = ["tokens", "preferred", "rejected"]
    rows = store.read_table(checkpoint, REFERENCE, columns).to_pylist()
    return {row["tokens"]: (row["preferred"], row["rejected"]) for row in rows}


def write_reference(
    store: Store, checkpoint: str, ids: Sequence[str], pairs: Sequence[Row], sums: Sequence[Sums]
) -> None:
    """Keep what the reference gave these pairs, in a file of their own.

    Args:
        ids: of the pairs.
        sums: one per pair.
    """
    rows = [
        {
            "pair_id": pair_id,
            "checkpoint": checkpoint,
            "tokens": tokens_of(pair),
            "preferred": preferred,
            "rejected": rejected,
        }
        for pair_id, pair, (preferred, rejected) in zip(ids, pairs, sums, strict=True)
    ]
    part = stable_id([row["tokens"] for row in rows])
    store.write_table(f"{checkpoint}/{part}.parquet", rows, REFERENCE)


def tokens_of(pair: Row) -> str:
    """Hash of all that the reference reads of a pair, whatever template and length it has."""
    digest = hashlib.blake2b(digest_size=16)
    for encoded in pair:
        digest.update(f"{len(encoded.ids)} {encoded.prompt_length} ".encode())
        digest.update(encoded.ids.tobytes())
    return digest.hexdigest()
