"""Where sentences end, in any script."""

from __future__ import annotations

import re
from collections.abc import Iterator

import regex
from sentencex import segment

_ABBREVIATION = re.compile(
    r"(?:^|[\s(\"'])(?:[A-Z]|Dr|Mr|Mrs|Ms|Prof|St|Mt|Jr|Sr|vs|etc|e\.g|i\.e|a\.m|p\.m)\.$"
)
"""Of what the segmenter takes for an end at the start of a text, or always."""
_ITEM = re.compile(r"(?:^|\n)\s*\d{1,3}\.$")
"""The number of a line of a list."""
_LOOKED_BACK = 20
"""Characters in which either of them is seen."""
_BREAKS = dict.fromkeys(map(ord, "\r\n\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"), " ")
"""A line need not be a sentence."""
_UNKNOWN = "\u0f0d\u0f0e\u0f11\u17d4\u17d5\u1b5e\u1b5f"
"""Ends of sentences in Tibetan, Khmer and Balinese, which the segmenter does not know."""
_SEEN_AS = _BREAKS | dict.fromkeys(map(ord, _UNKNOWN), "\u3002")
_GRAPHEME = regex.compile(r"\X")
_ENDED = regex.compile(r"[\p{SB=ST}\p{SB=AT}\u2026" + _UNKNOWN + r"][\p{SB=CL}\p{Pf}]*$")

_FULL_STOPS = {
    "\u3002": r"[\p{Han}\p{Hiragana}\p{Katakana}]",
    "\u0964": r"[\p{Devanagari}\p{Bengali}\p{Gurmukhi}\p{Oriya}]",
    "\u1362": r"\p{Ethiopic}",
    "\u0589": r"\p{Armenian}",
    "\u17d4": r"\p{Khmer}",
    "\u104b": r"\p{Myanmar}",
    "\u0f0d": r"\p{Tibetan}",
    "": r"[\p{Thai}\p{Lao}]",
}
_STOP_OF = {mark: regex.compile(rf"{letters}\P{{L}}*$") for mark, letters in _FULL_STOPS.items()}


def first_sentences(text: str, most: int, language: str = "en") -> str:
    """The beginning of a text, at most so many sentences long; all of it if it has no more.

    What has neither letter nor digit, such as a smiley, counts for nothing and stays with what is
    before it. A text without marks is one sentence.

    Args:
        language: ISO 639 code; decides which abbreviations are known.
    """
    end = counted = 0
    for stop in _ends(text, language):
        counts = any(map(str.isalnum, text[end:stop]))
        if counted == most and counts:
            return text[: _whole_graphemes(text, end)].rstrip()
        end, counted = stop, counted + counts
    return text


def split_sentences(text: str, language: str = "en") -> list[str]:
    """The sentences of a text that holds one after the other; a line is at least one."""
    found = []
    for line in text.splitlines():
        begin = 0
        for stop in _ends(line, language):
            found.append(line[begin:stop].strip())
            begin = stop
    return [sentence for sentence in found if sentence]


def is_finished(sentence: str) -> bool:
    """Whether there is a mark at its end, quotes and brackets behind it apart."""
    return _ENDED.search(sentence) is not None


def finished(sentence: str) -> str:
    """A sentence with the full stop of its script, if it has no mark at its end."""
    if is_finished(sentence):
        return sentence
    return sentence + next((m for m, last in _STOP_OF.items() if last.search(sentence)), ".")


def joined(sentences: list[str]) -> str:
    """Sentences as one text, which `split_sentences` takes apart."""
    text = ""
    for sentence in sentences:
        if text:
            text += _between(text)
        text += sentence
    return text


def _between(text: str) -> str:
    if not is_finished(text):
        return "\n"
    return "" if text.rstrip("\u201d\u2019\u300d\u300f\uff09")[-1:] in "\u3002\uff01\uff1f" else " "


def _ends(text: str, language: str) -> Iterator[int]:
    """Where each sentence ends, with the space after it; the last ends with the text."""
    end = 0
    for part in segment(language, text.translate(_SEEN_AS)):
        begin, end = end, end + len(part)
        mark = begin + len(text[begin:end].rstrip())
        seen = max(mark - _LOOKED_BACK, 0), mark
        if end < len(text) and (_ABBREVIATION.search(text, *seen) or _ITEM.search(text, *seen)):
            continue
        yield end
    if end < len(text):
        yield len(text)


def _whole_graphemes(text: str, end: int) -> int:
    """``end``, or the end of the character that it cuts through (a letter and its accent)."""
    if not 0 < end < len(text):
        return end
    return next(m.end() for m in _GRAPHEME.finditer(text) if m.end() >= end)
