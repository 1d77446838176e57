"""Characters that are none: unpaired surrogates, which no UTF-8 holds, and NUL."""

from __future__ import annotations

import re

_NO_CHARACTER = re.compile("[\ud800-\udfff\x00]")


def repaired(text: str) -> tuple[str, int]:
    """The text with U+FFFD for each code point that is no character, and how many there were."""
    return _NO_CHARACTER.subn("\ufffd", text)
