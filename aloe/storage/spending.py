"""What a run has spent: a ledger by stage, which ``run.max_tokens`` and its like are held against.

    spending/<stage>.json    tokens and dollars of all calls of a stage (training/ppo: training-ppo)

A manifest counts what is kept. Here is all that was paid for, also for what was thrown away, and
it stays when a stage's folder is removed.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from aloe.storage.manifest import Usage, load_manifest
from aloe.storage.records import fitting, read_record
from aloe.storage.store import Store

_FOLDER = "spending"
_TRAINING = "training"


def spent_by_stage(store: Store) -> dict[str, Usage]:
    """What each stage that was begun has spent, over all starts.

    A ledger may be some seconds behind where a driver was killed: what a manifest knows of counts
    at least.
    """
    names = store.names(_FOLDER)
    ledger = {_stage(name): _read(store, name) for name in names if name.endswith(".json")}
    begun = {*store.names(), *(f"{_TRAINING}/{kind}" for kind in store.names(_TRAINING))}
    spent = {}
    for stage in sorted(begun | ledger.keys()):
        manifest = load_manifest(store, stage)
        if manifest is not None or stage in ledger:
            kept = manifest.usage if manifest else Usage()
            spent[stage] = larger(ledger.get(stage, Usage()), kept)
    return spent


def note_spent(store: Store, stage: str, usage: Usage) -> None:
    """Write what a stage has spent over all starts."""
    store.write_text(f"{_FOLDER}/{stage.replace('/', '-')}.json", json.dumps(asdict(usage)) + "\n")


def larger(one: Usage, other: Usage) -> Usage:
    """Field by field the larger number."""
    return Usage(*map(max, asdict(one).values(), asdict(other).values()))


def _read(store: Store, name: str) -> Usage:
    return read_record(store, f"{_FOLDER}/{name}", "a ledger", _usage)


def _usage(values: Any) -> Usage:
    return Usage(**fitting(Usage, values))


def _stage(name: str) -> str:
    return name.removesuffix(".json").replace("-", "/")
