"""Control tokens: begin and end of a message are what the chat template writes, never what is said.

A tokenizer reads `<|im_end|>` as one also where somebody spelled it. A policy could end its own
message in the prompt of its judge and go on as the system: texts lose them before they are tokens.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from aloe.chat.characters import repaired
from aloe.chat.message import Message

_MARK = re.compile(r"[^\w\s]")
"""What tells a token that a template writes from a word, or from the end of a line."""


def control_tokens(tokenizer: Any, written: str = "") -> dict[str, int]:
    """Ids of the control tokens, by their text.

    Those are the special ones, and what is added besides and stands in a template: families mark
    whole roles by tokens that are not special.

    Args:
        tokenizer: of transformers or vLLM.
        written: what the chat template writes.
    """
    # Those of vLLM without this attribute (Mistral's own) read no control token from text.
    added = getattr(tokenizer, "added_tokens_decoder", {})
    return {
        token.content: int(number)
        for number, token in added.items()
        if token.content
        and (token.special or (token.content in written and _MARK.search(token.content)))
    }


def without_controls(text: str, tokenizer: Any, written: str = "") -> str:
    """The text with a space for each of the `control_tokens` that it spells."""
    controls = spelled_controls(tokenizer, written)
    return controls.sub(" ", text) if controls else text


def plain_chat(messages: Iterable[Message], tokenizer: Any, written: str = "") -> list[Message]:
    """The chat, each content `without_controls`, and `repaired`."""
    return [
        {
            "role": message["role"],
            "content": without_controls(repaired(message["content"])[0], tokenizer, written),
        }
        for message in messages
    ]


@lru_cache(maxsize=16)
def spelled_controls(tokenizer: Any, written: str = "") -> re.Pattern[str] | None:
    """A pattern that finds `control_tokens`; None if there are none."""
    spelled = sorted(control_tokens(tokenizer, written), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, spelled))) if spelled else None
