"""The words of a text."""

from __future__ import annotations

import regex

_WORD = regex.compile(r"[\p{L}\p{M}\p{Nl}\p{No}]+")


def words(text: str) -> list[str]:
    """The words of a text, in lower case."""
    return [word.lower() for word in _WORD.findall(text)]
