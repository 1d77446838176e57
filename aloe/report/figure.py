"""Figures as plain plotly JSON. Colours are names of CSS properties, which the page resolves."""

from __future__ import annotations

import html
import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]
BASE_COLOR = "--series-base"
COLORS = ("--series-1", "--series-2", "--series-3", "--series-4")


@dataclass(frozen=True)
class Figure:
    """One chart: where it stands, what it says in words and what plotly draws."""

    id: str
    section: str
    title: str
    alt: str
    traces: list[Json]
    layout: Json = field(default_factory=dict)


def plain(text: str, width: int = 0, lines: int = 9) -> str:
    """Text as plotly shows it: plotly reads tags and entities in every string that it draws.

    Args:
        text: any text.
        width: characters after which a line is broken; 0 never breaks.
        lines: lines after which the text is cut.
    """
    parts = [text]
    if width:
        parts = textwrap.wrap(text, width, max_lines=lines, placeholder=" …")
    return "<br>".join(html.escape(part, quote=False) for part in parts)


def scatter(name: str, x: Sequence[Any], y: Sequence[float | None], mode: str) -> Json:
    """A trace of points or lines; values that are not finite leave a gap (JSON has no NaN)."""
    values = [value if value is not None and math.isfinite(value) else None for value in y]
    return {"type": "scatter", "name": plain(name), "x": list(x), "y": values, "mode": mode}


def bar(name: str, labels: Sequence[str], values: Sequence[float], color: str) -> Json:
    """A trace of horizontal bars."""
    trace = {"type": "bar", "orientation": "h", "name": plain(name), "marker": {"color": color}}
    return trace | {"y": list(labels), "x": list(values)}
