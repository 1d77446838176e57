"""Whether a text goes round in circles, also where no spaces are written between words."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import regex

UNSPACED = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}]"
"""Letters of scripts that write words without spaces."""

_PIECE = regex.compile(rf"(?P<letter>(?={UNSPACED})\X)|(?:(?!{UNSPACED})\w)+")
_LEAST_DISTINCT = 0.55
"""Share of a text's words, or pairs of letters, that differ where it does not repeat itself."""
_MOST_REPEATS = 2
"""Times that the same phrase may stand in one text."""
_WORDS, _LETTERS = 3, 6
"""Length of a phrase, in words or in letters of scripts without spaces."""


def repeats_itself(text: str, doubled: bool) -> bool:
    """Whether phrases come again and again, or few different words.

    Args:
        doubled: whether a word may stand twice in a row, as in many languages.
    """
    found = list(_PIECE.finditer(text.lower()))
    pieces = [match[0] for match in found]
    letters = sum(match["letter"] is not None for match in found)
    if 2 * letters > len(pieces):
        return _in_circles(list(map("".join, pairwise(pieces))), _LETTERS - 1)
    twice = [one == other for one, other in pairwise(pieces)]
    in_a_row = any(map(all, pairwise(twice))) if doubled else any(twice)
    return in_a_row or _in_circles(pieces, _WORDS)


def _in_circles(pieces: list[str], length: int) -> bool:
    phrases = Counter(zip(*(pieces[start:] for start in range(length)), strict=False))
    return max(phrases.values(), default=0) > _MOST_REPEATS or len(
        set(pieces)
    ) < _LEAST_DISTINCT * len(pieces)
