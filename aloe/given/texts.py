"""Columns of a row as one text."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any


def joined(row: Mapping[str, Any], columns: Sequence[str]) -> str:
    """Columns as one text in this order, empty ones passed over; a list's items are its sentences.

    Runs of white space become one space.

    Raises:
        ValueError: a column holds neither text nor numbers nor a list of them.
    """
    parts: list[str] = []
    for name in columns:
        value = row[name]
        for item in value if isinstance(value, list) else [value]:
            try:
                text = " ".join(text_of(item).split())
            except ValueError as error:
                raise ValueError(f"column {name}: {error}") from error
            if text:
                parts.append(text)
    return " ".join(parts)


def text_of(value: object) -> str:
    """A text as it is, bytes that are one in UTF-8, a number written out; empty if it is none.

    Raises:
        ValueError: it is something else.
    """
    match value:
        case None:
            return ""
        case str():
            return value
        case float() if math.isnan(value):  # how tables of numbers say that there is none
            return ""
        case bytes():
            return _decoded(value)
        case bool() | list() | dict() | tuple():
            pass
        case int():
            return str(value)
        case float() if math.isfinite(value):
            return str(value)
    kind = type(value).__name__
    raise ValueError(f"expected text or a list of texts, got {kind}")


def _decoded(value: bytes) -> str:
    try:
        text = value.decode()
    except UnicodeDecodeError as error:
        place = error.start + 1
        raise ValueError(f"expected text, got bytes (byte {place} is no UTF-8)") from error
    if any(unicodedata.category(sign) == "Cc" and not sign.isspace() for sign in text):
        raise ValueError("expected text, got bytes with control characters")
    return text


def is_missing(value: object) -> bool:
    """Whether a cell says that there is nothing: null, NaN, or no character."""
    return value is None or value in ("", b"") or (isinstance(value, float) and math.isnan(value))
