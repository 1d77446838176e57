"""What a conversation is made of."""

from __future__ import annotations

from typing import TypedDict


class Message(TypedDict):
    """One message of a chat: role is system, user or assistant."""

    role: str
    content: str
