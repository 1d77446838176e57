"""An estimate as a table for people and as one object for machines."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from rich import box
from rich.table import Table

from aloe.estimate.numbers import COVERAGE, Range
from aloe.estimate.run import Estimate

_NUMBERS = ("calls", "prompt_tokens", "completion_tokens", "cost_usd", "hours")


def as_json(estimate: Estimate) -> dict[str, Any]:
    """All numbers; what is not known is null."""
    return {
        "coverage": COVERAGE,
        "resampled": "the items whose number is sampled: requests, trees, cases",
        "stages": [asdict(stage) for stage in estimate.stages],
        "total": {name: value and asdict(value) for name, value in totals(estimate).items()},
        "spent": asdict(estimate.spent),
        "probe": asdict(estimate.probe),
        "max_tokens": estimate.max_tokens,
        "max_cost_usd": estimate.max_cost_usd,
    }


def totals(estimate: Estimate) -> dict[str, Range | None]:
    """Sums over the stages; their lows and highs add up, as if all were off to the same side."""
    found: dict[str, Range | None] = {}
    for name in _NUMBERS:
        parts = [part for stage in estimate.stages if (part := getattr(stage, name)) is not None]
        sides = [
            [part.value if side is None else side for part in parts for side in [getattr(part, of)]]
            for of in ("low", "high")
        ]
        certain = any(part.low is not None for part in parts)
        low, high = map(sum, sides)
        found[name] = (
            Range(sum(part.value for part in parts), *((low, high) if certain else (None, None)))
            if parts
            else None
        )
    return found


def estimate_table(estimate: Estimate) -> Table:
    """What is left of each stage, and of all."""
    table = Table(
        title="What is left of the run", box=box.SIMPLE, pad_edge=False, collapse_padding=True
    )
    table.add_column("stage")
    for heading in ("left", "calls", "prompt tokens", "completion tokens", "US dollars", "hours"):
        table.add_column(heading, justify="right")
    for stage in estimate.stages:
        if stage.source == "complete":
            table.add_row(stage.stage, "complete")
            continue
        cells = [_cell(getattr(stage, name), name) for name in _NUMBERS]
        table.add_row(stage.stage, f"{stage.left:,.0f} {stage.unit}", *cells)
    table.add_row("all", "", *(_cell(value, name) for name, value in totals(estimate).items()))
    return table


def notes(estimate: Estimate) -> Iterator[str]:
    """What has to be known to read the table, a line each."""
    for stage in estimate.stages:
        if stage.sampled:
            whose = "of the run's own" if stage.source == "run" else "of a probe"
            yield (
                f"{stage.stage}: from {stage.sampled} items {whose}; the range is "
                f"{COVERAGE:.0%} of resamples of them"
            )
        if stage.unpriced and stage.cost_usd is not None:
            yield f"{stage.stage}: without a price, counted as free: {', '.join(stage.unpriced)}"
    tokens = estimate.probe.prompt_tokens + estimate.probe.completion_tokens
    if tokens:
        yield f"the probe itself has taken {tokens:,} tokens, ${estimate.probe.cost_usd:,.2f}"
    yield from _over_limits(estimate)


def _over_limits(estimate: Estimate) -> Iterator[str]:
    total, spent = totals(estimate), estimate.spent
    prompt, completion, usd = (total[name] for name in _NUMBERS[1:4])
    if estimate.max_tokens is not None and prompt and completion:
        all_tokens = spent.prompt_tokens + spent.completion_tokens + prompt.value + completion.value
        if all_tokens > estimate.max_tokens:
            yield (
                f"run.max_tokens {estimate.max_tokens:,} will stop the run: {all_tokens:,.0f} "
                "are expected in all"
            )
    if estimate.max_cost_usd is not None and usd:
        all_usd = spent.cost_usd + usd.value
        if all_usd > estimate.max_cost_usd:
            yield (
                f"run.max_cost_usd {estimate.max_cost_usd:g} will stop the run: ${all_usd:,.2f} "
                "are expected in all"
            )


def _cell(value: Range | None, name: str) -> str:
    if value is None:
        return "?"
    digits = {"cost_usd": 2, "hours": 2}.get(name, 0)
    text = f"{value.value:,.{digits}f}"
    if value.low is None or value.high is None:
        return text
    return f"{text}\n[{value.low:,.{digits}f}, {value.high:,.{digits}f}]"
