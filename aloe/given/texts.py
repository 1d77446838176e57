"""Columns of a row as one text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def joined(row: Mapping[str, Any], columns: Sequence[str]) -> str:
    """Columns as one text in this order, empty ones passed over; a list's items are its sentences.

    Numbers are written out, runs of white space become one space.

    Raises:
        ValueError: a column holds neither text nor numbers nor a list of them.
    """
    parts: list[str] = []
    for name in columns:
        value = row[name]
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, dict | list):
                raise ValueError(f"column {name}: expected text or a list of texts")
            if item is not None and (text := " ".join(str(item).split())):
                parts.append(text)
    return " ".join(parts)
