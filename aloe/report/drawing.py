"""The benchmark as a picture for a paper or a README: alignment by turn, and what was told."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

_SIZE = (9.0, 4.2)
_BOUNDS = ("ideal", "oracle")
"""Names of policies that are drawn as bounds, dashed."""
_TRIVIAL = ("constant", "random")
"""Names of policies that are not drawn: one half stands for them."""


def draw_alignment(scores: Mapping[str, Any], title: str) -> str:
    """AL(k) of each policy with its interval and, where it is known, nats by turn; an SVG text.

    Equal numbers give equal texts.

    Args:
        scores: results of the evaluation stage, see `aloe.evaluation.results.benchmark_results`.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    knowable = scores.get("knowable")
    with rc_context({"svg.hashsalt": "aloe", "svg.fonttype": "path", "font.size": 9}):
        figure = Figure(figsize=_SIZE, layout="constrained")
        figure.suptitle(title)
        shown = [name for name in scores["policies"] if name not in _TRIVIAL]
        colors = {name: f"C{number % 10}" for number, name in enumerate(shown)}
        panels = figure.subplots(
            1, 2 if knowable else 1, squeeze=False, width_ratios=[2, 1][: 1 + bool(knowable)]
        )[0]
        _levels(panels[0], scores, shown, colors)
        if knowable:
            _nats(panels[1], knowable, [name for name in shown if name not in _BOUNDS], colors)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return text.getvalue()


def _levels(
    panel: Any, scores: Mapping[str, Any], shown: Sequence[str], colors: Mapping[str, str]
) -> None:
    low, high = scores["scale"]
    for name in shown:
        bound = name in _BOUNDS
        _curve(panel, name, scores["policies"][name]["al"], colors[name], "--" if bound else "-")
    panel.axhline((low + high) / 2, color="grey", linestyle=":", linewidth=1, label="one half")
    panel.set(xlabel="turn k", ylabel=f"AL(k), {low} to {high}", ylim=(low, high))
    panel.xaxis.get_major_locator().set_params(integer=True)
    panel.legend(fontsize=7, ncols=2)


def _nats(
    panel: Any, knowable: Mapping[str, Any], shown: Sequence[str], colors: Mapping[str, str]
) -> None:
    for name in shown:
        _curve(panel, name, knowable["policies"][name]["nats"], colors[name], "-")
    panel.axhline(knowable["entropy"], color="grey", linestyle=":", linewidth=1)
    panel.set(xlabel="turn k", ylabel="nats told of the type", ylim=(0, None))
    panel.xaxis.get_major_locator().set_params(integer=True)


def _curve(
    panel: Any, name: str, points: Sequence[Mapping[str, Any]], color: str, style: str
) -> None:
    turns, values, lows, highs = (
        [point[key] for point in points] for key in ("turn", "value", "low", "high")
    )
    panel.plot(turns, values, style, color=color, label=name, marker="o", markersize=3)
    if None not in lows:
        panel.fill_between(turns, lows, highs, color=color, alpha=0.13, linewidth=0)
