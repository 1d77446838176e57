"""The JSON object in what a model wrote: bare, in a fence, or with words around it."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

from aloe.chat import repaired_value

_DECODER = json.JSONDecoder(strict=False)  # models break lines inside of strings
_MOST_STARTS = 200
"""Braces that are tried, so that no text takes long."""


def object_in(text: str, keys: Collection[str]) -> dict[str, Any]:
    """The first object in a text that has all the keys, each text in it `repaired`.

    Raises:
        ValueError: there is none.
    """
    start = text.find("{")
    for _ in range(_MOST_STARTS):
        if start < 0:
            break
        try:
            decoded, _ = _DECODER.raw_decode(text, start)
            found = repaired_value(decoded)
        except (ValueError, RecursionError):
            found = None
        if isinstance(found, dict) and all(key in found for key in keys):
            return found
        start = text.find("{", start + 1)
    raise ValueError(f"no JSON object with {', '.join(keys)}")
