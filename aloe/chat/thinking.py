"""What a model thinks before it speaks, apart from what it says."""

from __future__ import annotations

import re

OPENING, CLOSING = "<think>", "</think>"
_BLOCK = re.compile(rf"{OPENING}(.*?){CLOSING}\s*|\A\s*{OPENING}(.*)\Z", re.DOTALL)
_OTHER = re.compile(
    r"\s*(?:<(thinking|thought|reasoning)>(?P<in_tag>.*?)(?:</\1>|\Z)"
    r"|\[THINK\](?P<in_brackets>.*?)(?:\[/THINK\]|\Z))\s*",
    re.DOTALL,
)
"""Marks of other families; they count at the very start alone."""


def split_thinking(text: str, opened: bool = False) -> tuple[str, str]:
    """Reasoning and message of an answer; without a thought the message is the text as it is.

    A block at the start that generation ended is all reasoning. So is what stands before a closing
    mark without an opening one: chat templates write the opening as part of the prompt.

    Args:
        opened: the prompt ended within a block.
    """
    first_closing = text.find(CLOSING)
    if opened or (first_closing >= 0 and not 0 <= text.find(OPENING) < first_closing):
        text = OPENING + text
    other = _OTHER.match(text)
    if other:
        thought = other["in_tag"] or other["in_brackets"] or ""
        return thought.strip(), text[other.end() :]
    thoughts = ["".join(found).strip() for found in _BLOCK.findall(text)]
    if not thoughts:
        return "", text
    return "\n\n".join(filter(None, thoughts)), _BLOCK.sub("", text).strip()
