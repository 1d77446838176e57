"""What is no character: half of a surrogate pair, and NUL; no table or tokenizer takes them."""

from __future__ import annotations

import re

_NO_CHARACTER = re.compile("[\ud800-\udfff\x00]")
_REPLACEMENT = "\ufffd"


def real_characters(text: str) -> tuple[str, int]:
    """The text with U+FFFD for each of them, and how many there were."""
    return _NO_CHARACTER.subn(_REPLACEMENT, text)
