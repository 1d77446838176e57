"""Control tokens: begin and end of a message are what the chat template writes, never what is said.

A tokenizer reads `<|im_end|>` as one also where somebody spelled it. A policy could end its own
message in the prompt of its judge and go on as the system: texts lose them before they are tokens.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from aloe.chat.message import Message


def without_controls(text: str, tokenizer: Any) -> str:
    """The text with a space for each control token of this tokenizer that it spells.

    Args:
        tokenizer: of transformers or vLLM.
    """
    controls = _controls(tokenizer)
    return controls.sub(" ", text) if controls else text


def plain_chat(messages: Iterable[Message], tokenizer: Any) -> list[Message]:
    """The chat, each content `without_controls`."""
    return [
        {"role": message["role"], "content": without_controls(message["content"], tokenizer)}
        for message in messages
    ]


@lru_cache(maxsize=8)
def _controls(tokenizer: Any) -> re.Pattern[str] | None:
    # Those of vLLM without this attribute (Mistral's own) read no control token from text.
    added = getattr(tokenizer, "added_tokens_decoder", {}).values()
    special = {token.content for token in added if token.special} - {""}
    spelled = sorted(special, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, spelled))) if spelled else None
