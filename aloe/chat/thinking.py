"""What a model thinks before it speaks, apart from what it says."""

from __future__ import annotations

import re

OPENING, CLOSING = "<think>", "</think>"
_BLOCK = re.compile(rf"{OPENING}(.*?)(?:{CLOSING}|\Z)\s*", re.DOTALL)


def split_thinking(text: str, opened: bool = False) -> tuple[str, str]:
    """Reasoning and message of an answer; without a thought the message is the text as it is.

    A block that generation ended is all reasoning. So is what stands before a closing mark without
    an opening one: chat templates write the opening as part of the prompt.

    Args:
        opened: the prompt ended within a block.
    """
    first_closing = text.find(CLOSING)
    if opened or (first_closing >= 0 and not 0 <= text.find(OPENING) < first_closing):
        text = OPENING + text
    thoughts = [thought.strip() for thought in _BLOCK.findall(text)]
    if not thoughts:
        return "", text
    return "\n\n".join(filter(None, thoughts)), _BLOCK.sub("", text).strip()
