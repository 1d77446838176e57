"""Characters that are none: unpaired surrogates, which no UTF-8 holds, and NUL."""

from __future__ import annotations

import re
from typing import Any

_NO_CHARACTER = re.compile("[\ud800-\udfff\x00]")


def repaired(text: str) -> tuple[str, int]:
    """The text with U+FFFD for each code point that is no character, and how many there were."""
    return _NO_CHARACTER.subn("\ufffd", text)


def repaired_value(value: Any) -> Any:
    """A value of JSON with `repaired` texts: an escape in it may stand for what is no character."""
    if isinstance(value, str):
        return repaired(value)[0]
    if isinstance(value, list):
        return [repaired_value(part) for part in value]
    if isinstance(value, dict):
        return {repaired_value(key): repaired_value(part) for key, part in value.items()}
    return value
