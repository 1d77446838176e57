"""The benchmark's numbers as a table for people: each policy, then its distance to the baseline."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table

_COLUMNS = (("al_mean", "AL mean", 2), ("ir", "IR", 3), ("n_ir", "N-IR", 3), ("r2", "R2", 2))


def evaluation_table(results: Mapping[str, Any]) -> Table:
    """Table of ``manifest.results`` of the evaluation stage; fits 80 columns.

    A row ``sft vs base`` holds the paired difference (sft minus base) on the cases both finished;
    after the baseline each policy is compared with the one before it.
    """
    low, high = results["scale"]
    table = Table(
        title=f"Alignment with held-out personas (judge's scale {low}-{high})",
        box=box.SIMPLE,
        pad_edge=False,
        collapse_padding=True,
    )
    table.add_column("policy", overflow="fold")
    table.add_column("n", justify="right", no_wrap=True)
    if "units" in results:
        table.caption = f"n: {results['units']}, which the intervals are over"
    for _, heading, _ in _COLUMNS:
        table.add_column(heading, justify="right", no_wrap=True)
    for name, numbers in results["policies"].items():
        table.add_row(escape(name), str(numbers["cases"]), *_cells(numbers))
    table.add_section()
    for name, numbers in results["paired"].items():
        label = f"{name}\nvs {results['baseline']}"
        table.add_row(escape(label), "", *_cells(numbers))
    for name, numbers in results["successive"].items():
        table.add_row(escape(f"{name}\nvs {numbers['than']}"), "", *_cells(numbers))
    return table


def skills_table(skills: Mapping[str, Any]) -> Table:
    """Table of what policies make of hints, see `aloe.evaluation.skills`."""
    table = Table(
        title="Share of what users like that replies meet",
        box=box.SIMPLE,
        pad_edge=False,
        caption="reads: hinted at just now; remembers: hinted at before; untold: not so far",
    )
    table.add_column("policy", overflow="fold")
    names = list(next(iter(skills.values())))
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    for policy, found in skills.items():
        table.add_row(escape(policy), *(_cell(found[name], 2) for name in names))
    return table


def given_table(results: Mapping[str, Any]) -> Table:
    """Table of ``manifest.results`` of judged conversations: AL(k) by turn, then what follows."""
    low, high = results["scale"]
    table = Table(
        title=f"Given conversations ({low}-{high})",
        box=box.SIMPLE,
        pad_edge=False,
    )
    table.add_column("")
    table.add_column("value", justify="right", no_wrap=True)
    for level in results["al"]:
        table.add_row(f"AL({level['turn']})", _cell(level, 2))
    table.add_section()
    for (_, heading, _), cell in zip(_COLUMNS, _cells(results), strict=True):
        if cell:
            table.add_row(heading, cell)
    table.caption = f"{results['conversations']} conversations, {results['personas']} personas"
    if results["shorter"]:
        table.caption += f"; {results['shorter']} with fewer replies do not count"
    return table


def _cells(numbers: Mapping[str, Any]) -> list[str]:
    return [_cell(numbers[key], digits) if key in numbers else "" for key, _, digits in _COLUMNS]


def _cell(estimate: Mapping[str, float | None], digits: int) -> str:
    if estimate["value"] is None:
        return "undefined"
    value = _fixed(estimate["value"], digits)
    if estimate["low"] is None or estimate["high"] is None:
        return value
    low, high = _fixed(estimate["low"], digits), _fixed(estimate["high"], digits)
    return f"{value}\n\\[{low}, {high}]"  # the backslash keeps rich from reading it as markup


def _fixed(value: float, digits: int) -> str:
    return f"{round(value, digits) + 0.0:.{digits}f}"  # + 0.0 turns -0.0 into 0.0
