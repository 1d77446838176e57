"""What manifests, error rows and metrics say, as rows for the page's tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aloe.schema import ERRORS, METRICS
from aloe.storage.manifest import Manifest, Usage
from aloe.storage.store import Store

TITLES = {
    "personas": "Personas",
    "dialogue": "Dialogue",
    "preferences": "Preferences",
    "training/sft": "SFT",
    "training/rounds": "On-policy rounds",
    "training/reward": "Reward model",
    "training/dpo": "DPO",
    "training/ppo": "PPO",
    "evaluation": "Evaluation",
}


@dataclass(frozen=True)
class StageRow:
    """One line of the budget: a stage, how far it is and what it cost."""

    title: str
    state: str
    """complete | in progress | not yet"""
    manifest: Manifest | None


@dataclass(frozen=True)
class Cost:
    usage: Usage
    wall_seconds: float


@dataclass(frozen=True)
class Result:
    """One number of a training stage; ``value`` where there is no before and after."""

    name: str
    before: Any = None
    after: Any = None
    value: Any = None
    before_interval: list[float] | None = None
    after_interval: list[float] | None = None


@dataclass(frozen=True)
class ErrorRow:
    stage: str
    role: str
    kind: str
    count: int
    example: str


def stage_rows(manifests: Mapping[str, Manifest | None]) -> list[StageRow]:
    return [StageRow(TITLES[name], _state(found), found) for name, found in manifests.items()]


def _state(manifest: Manifest | None) -> str:
    if manifest is None:
        return "not yet"
    return "complete" if manifest.complete else "in progress"


def total_cost(manifests: Mapping[str, Manifest | None]) -> Cost:
    """Usage and wall seconds of all stages that have started."""
    started = [found for found in manifests.values() if found is not None]
    usage = sum((found.usage for found in started), Usage())
    return Cost(usage, sum(found.wall_seconds for found in started))


def evaluation_scores(evaluation: Manifest | None) -> dict[str, Any] | None:
    """The evaluation's results with the baseline first; None until the stage is complete."""
    if evaluation is None or not evaluation.complete:
        return None
    scores = evaluation.results
    names = sorted(scores["policies"], key=lambda name: name != scores["baseline"])
    return {**scores, "policies": {name: scores["policies"][name] for name in names}}


def read_metrics(store: Store) -> list[dict[str, Any]]:
    """Rows of `aloe.schema.METRICS`, in the order of the stages."""
    names = (f"{stage}/metrics.parquet" for stage in TITLES if stage.startswith("training/"))
    tables = (store.read_table(name, METRICS) for name in names if store.exists(name))
    return [row for table in tables for row in table.to_pylist()]


def training_results(manifests: Mapping[str, Manifest | None]) -> dict[str, list[Result]]:
    """Results of the complete training stages by title, numbers before and after side by side."""
    return {
        TITLES[name]: pair_results(found.results)
        for name, found in manifests.items()
        if name.startswith("training/") and found and found.results
    }


def pair_results(results: Mapping[str, Any]) -> list[Result]:
    """Join ``X_before``, ``X_after`` and their ``X_interval_*`` to one row; others stand alone."""
    rows: dict[str, Result] = {}
    for key, value in results.items():
        if isinstance(value, Mapping):  # drawn, not tabled
            continue
        stem, _, when = key.rpartition("_")
        if when not in ("before", "after"):
            rows[key] = Result(key, value=value)
        elif not stem.endswith("_interval"):
            rows[stem] = Result(
                stem,
                before=results.get(f"{stem}_before"),
                after=results.get(f"{stem}_after"),
                before_interval=results.get(f"{stem}_interval_before"),
                after_interval=results.get(f"{stem}_interval_after"),
            )
    return list(rows.values())


def error_rows(store: Store) -> list[ErrorRow]:
    """Failed trees, cases and requests, counted by stage, role and kind, most frequent first."""
    counts: Counter[tuple[str, str, str]] = Counter()
    examples: dict[tuple[str, str, str], str] = {}
    columns = ["stage", "role", "kind", "message"]
    for name in TITLES:
        for row in store.read_table(f"{name}/errors", ERRORS, columns).to_pylist():
            key = (row["stage"], row["role"], row["kind"])
            counts[key] += 1
            examples.setdefault(key, row["message"])
    return [ErrorRow(*key, count, examples[key]) for key, count in counts.most_common()]
