"""Texts that were met before, exactly or nearly, in a few bytes per text.

Near ones are found by MinHash: equal minima of several hashes over a text's words. Of two texts
that share nine tenths of their words it finds about nine in ten, of two that share half one in
sixty; what it counts is an estimate.
"""

from __future__ import annotations

import re
from array import array
from bisect import bisect_left
from hashlib import blake2b
from zlib import crc32

import numpy as np
import numpy.typing as npt

_WORD = re.compile(r"[^\W_]+")
_MARKS = str.maketrans(dict.fromkeys(",.;:!?()\"'", " "))
_BANDS, _ROWS = 4, 8
"""Two texts are near if all minima of one band are equal."""
_UNSORTED = 1 << 14
"""Hashes kept in a set before they join the sorted ones."""
_draw = np.random.default_rng(0)
_FACTORS = _draw.integers(1, 1 << 63, (_BANDS * _ROWS, 1), np.uint64) | np.uint64(1)
_TERMS = _draw.integers(0, 1 << 63, (_BANDS * _ROWS, 1), np.uint64)


class Hashes:
    """A growing set of 64-bit hashes, eight bytes each."""

    def __init__(self) -> None:
        self._sorted = array("Q")
        self._fresh: set[int] = set()

    def add(self, value: int) -> bool:
        """Take a hash in; returns whether it was not there yet."""
        if value in self._fresh:
            return False
        place = bisect_left(self._sorted, value)
        if place < len(self._sorted) and self._sorted[place] == value:
            return False
        self._fresh.add(value)
        if len(self._fresh) >= _UNSORTED:
            merged = np.concatenate(
                [np.array(self._sorted, np.uint64), np.array(list(self._fresh), np.uint64)]
            )
            merged.sort()
            self._sorted, self._fresh = array("Q", merged.tobytes()), set()
        return True


class Repeats:
    """Tells of each text whether it, or one with nearly the same words, came before."""

    def __init__(self) -> None:
        self._exact = Hashes()
        self._bands = [Hashes() for _ in range(_BANDS)]

    def first_seen(self, text: str) -> bool:
        """Whether this very text is new."""
        return self._exact.add(hash_of(text))

    def nearly_seen(self, text: str) -> bool:
        """Whether nearly this text came before; a text without words never did."""
        keys = _band_keys(text)
        fresh = [band.add(key) for band, key in zip(self._bands, keys, strict=False)]
        return not all(fresh)


def hash_of(text: str) -> int:
    """64 bits of a text, the same on any machine."""
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little")


def hash_of_words(text: str) -> int:
    """64 bits that are the same for texts with the same words in the same order, but for case."""
    return hash_of(" ".join(_WORD.findall(text.lower())) or text)


def _band_keys(text: str) -> list[int]:
    words = {crc32(word.encode()) for word in set(text.lower().translate(_MARKS).split())}
    if not words:
        return []
    hashed: npt.NDArray[np.uint64] = np.fromiter(words, np.uint64, len(words)) * _FACTORS + _TERMS
    minima = (hashed >> np.uint64(32)).min(axis=1).reshape(_BANDS, _ROWS)
    return [hash(band.tobytes()) & ((1 << 64) - 1) for band in minima]
