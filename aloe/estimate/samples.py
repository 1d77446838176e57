"""What items took that were really held, as the files of a run or of a probe have it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aloe.config import Config
from aloe.estimate.probe import policies_of
from aloe.personas import check_personas
from aloe.personas.growth import growth_of
from aloe.personas.lexicon import KINDS, Kind
from aloe.schema import NODES, ROUNDS, SCORES
from aloe.storage import Store

_MOST = 64
"""Items that a sample has at most."""
_ENOUGH = 2
"""Items with which a sample can be resampled."""

Row = dict[str, Any]
Sample = dict[str, list[Any]]
"""Items by pool, by policy, or all under one name."""


def sample_of(stage: str, config: Config, store: Store) -> Sample:
    """Finished items of personas (rows of `aloe.schema.ROUNDS` by pool), dialogue (rows of NODES of
    each tree) or evaluation (calls of each case, turn by turn, by policy that is probed)."""
    return _SAMPLES[stage](config, store)


def enough(sample: Sample) -> bool:
    """Whether each part of a sample can be resampled."""
    return all(len(items) >= _ENOUGH for items in sample.values())


def rounds_of(store: Store, kind: Kind) -> list[Row]:
    """Rows of `aloe.schema.ROUNDS` of a pool, in order."""
    rows: list[Row] = []
    for name in sorted(store.finished("personas", "rounds")):
        if name.startswith(f"{kind}-"):
            rows += store.read_table(f"personas/rounds/{name}.parquet", ROUNDS).to_pylist()
    return rows


def _requests(config: Config, store: Store) -> Sample:
    return {
        kind: [row for row in rounds_of(store, kind) if row["round"] >= 0][-_MOST:]
        for kind in _growing(config)
    }


def _growing(config: Config) -> list[Kind]:
    """Pools that the writer has to add to."""
    starting = check_personas(config)
    given = {kind: sum(len(outcome["candidates"]) for outcome in starting[kind]) for kind in KINDS}
    return [kind for kind in KINDS if given[kind] < growth_of(kind, config.personas).size]


def _trees(config: Config, store: Store) -> Sample:
    rows: list[Row] = []
    trees: set[str] = set()
    for name in sorted(store.finished("dialogue", "nodes")):
        columns = ["tree_id", "turn", "branch", "calls"]
        rows += store.read_table(f"dialogue/nodes/{name}.parquet", NODES, columns).to_pylist()
        trees = {row["tree_id"] for row in rows}
        if len(trees) >= _MOST:
            break
    return {"": [[row for row in rows if row["tree_id"] == tree] for tree in sorted(trees)]}


def _cases(config: Config, store: Store) -> Sample:
    """Calls of each case, turn by turn, by policy that is probed."""
    found: Sample = {policy: [] for policy in policies_of(config)}
    if not store.finished("evaluation", "scores"):
        return found
    columns = ["case_id", "policy", "turn", "calls"]
    rows = store.read_table("evaluation/scores", SCORES, columns).to_pylist()
    cases: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        cases.setdefault((row["policy"], row["case_id"]), []).append(row)
    for (policy, _), turns in cases.items():
        if policy in found:
            turns.sort(key=lambda row: row["turn"])
            found[policy].append([row["calls"] for row in turns])
    return found


_SAMPLES: dict[str, Callable[[Config, Store], Sample]] = {
    "personas": _requests,
    "dialogue": _trees,
    "evaluation": _cases,
}
