"""What a model thinks before it speaks, apart from what it says."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

OPENING, CLOSING = "<think>", "</think>"
_MARKS = re.compile(rf"({OPENING}(?:\s*{OPENING})*|{CLOSING})")
"""Some models open a block that is open already."""
_AFTER_BLOCK = re.compile(r"\s*\n|[^\S\n]*")
"""White space that parts a thought from what is said; the indent of its first line is not."""
_OTHER = re.compile(
    r"\s*(?:<(thinking|thought|reasoning)>(?P<in_tag>.*?)(?:</\1>|\Z)"
    r"|\[THINK\](?P<in_brackets>.*?)(?:\[/THINK\]|\Z))\s*",
    re.DOTALL,
)
"""Marks of other families; they count at the very start alone."""


class _Piece(NamedTuple):
    """A run of text that is thought, or said."""

    text: str
    thought: bool


def split_thinking(text: str, opened: bool = False) -> tuple[str, str]:
    """Reasoning and message of an answer; without a thought the message is the text as it is.

    A block ends where it is closed as often as it was opened, or at its last closing. What stands
    before a closing without an opening is a thought: chat templates write the opening as part of
    the prompt. So is a block that generation ended, at the start, at the start of a line or after
    another block; elsewhere the mark is a word.

    Args:
        opened: the prompt ended within a block.
    """
    if opened:
        start = text.lstrip()
        text = start if start.startswith(OPENING) else OPENING + text
    other = _OTHER.match(text)
    if other:
        thought = other["in_tag"] or other["in_brackets"] or ""
        return thought.strip(), text[other.end() :]
    pieces = list(_pieces(text))
    if not any(piece.thought for piece in pieces):
        return "", text
    thoughts = [_MARKS.sub("", piece.text).strip() for piece in pieces if piece.thought]
    return "\n\n".join(filter(None, thoughts)), _message(pieces)


def _pieces(text: str) -> Iterator[_Piece]:
    """The text in its order, cut at the marks of its blocks."""
    begin, thought_before = 0, False
    marks = list(_MARKS.finditer(text))
    while marks:
        if marks[0][0] == CLOSING:
            last, inside = 0, (begin, marks[0].start())
        else:
            found = _closing_of(marks)
            if found is None:
                if thought_before or _begins_a_line(text[begin : marks[0].start()]):
                    yield _Piece(text[begin : marks[0].start()].rstrip(), False)
                    yield _Piece(text[marks[0].end() :], True)
                    return
                break
            last, inside = found, (marks[0].end(), marks[found].start())
            yield _Piece(text[begin : marks[0].start()], False)
        yield _Piece(text[slice(*inside)], True)
        begin, thought_before = marks[last].end(), True
        marks = marks[last + 1 :]
    yield _Piece(text[begin:], False)


def _closing_of(marks: list[re.Match[str]]) -> int | None:
    """Which mark closes the block that the first one opens; None if generation ended it."""
    depth, last = 0, None
    for number, mark in enumerate(marks):
        if mark[0] == CLOSING:
            depth, last = depth - 1, number
            if not depth:
                return number
        else:
            depth += 1
    return last


def _begins_a_line(before: str) -> bool:
    return not before.strip() or before.rstrip(" \t").endswith("\n")


def _message(pieces: list[_Piece]) -> str:
    message, after_block = "", False
    for piece in pieces:
        if piece.thought:
            after_block = True
            continue
        said = piece.text
        if after_block:
            parted = _AFTER_BLOCK.match(said)
            said = said[parted.end() :] if parted else said
        message += said if message or said.strip() else ""
        after_block = False
    return message
