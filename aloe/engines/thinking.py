"""What a model thought before it spoke, apart from what it said."""

from __future__ import annotations

import re

_BEGIN = re.compile(r"\s*(?:<(think|thinking|thought|reasoning)>|\[THINK\])")


def split_thinking(text: str, begun: bool = False) -> tuple[str, str]:
    """Thoughts and what is said after them; a text without thoughts stays as it is.

    Only a block at the very start is one. Without its end all of the text is thoughts.

    Args:
        begun: the chat template has opened the block, so the text begins inside of it.
    """
    opening = _BEGIN.match(text)
    if opening is not None:
        name = opening[1]
        end = f"</{name}>" if name else "[/THINK]"
        thought, _, said = text[opening.end() :].partition(end)
    elif begun or _ended(text):
        thought, _, said = text.partition("</think>")
    else:
        return "", text
    return thought.strip(), said.lstrip()


def _ended(text: str) -> bool:
    """Whether a block ends that did not begin: a template opened it, and nobody took it away."""
    before, end, _ = text.partition("</think>")
    return bool(end) and "<think>" not in before
