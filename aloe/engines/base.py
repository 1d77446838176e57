"""What every engine understands: one request, one completion, counted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypedDict


class Message(TypedDict):
    """One message of a chat: role is system, user or assistant."""

    role: str
    content: str


@dataclass(frozen=True)
class Request:
    """One call.

    With ``choices`` the answer is one of them, taken greedily, and its log-probs are returned.
    With ``json_schema`` the answer is a JSON text that fits the schema.
    """

    messages: list[Message]
    max_tokens: int = 300
    temperature: float = 0.8
    top_p: float = 0.95
    seed: int = 0
    choices: tuple[str, ...] = ()
    json_schema: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Completion:
    """One answer and what it cost."""

    text: str
    model: str
    finish_reason: str
    prompt_tokens: int
    cached_tokens: int
    """Prompt tokens that the engine served from its prefix cache."""
    completion_tokens: int
    seconds: float
    choice_logprobs: dict[str, float] = field(default_factory=dict)
    """Choice -> natural log of its probability among the choices (they sum to 1)."""


class Engine(Protocol):
    """Someone who speaks. Many `complete` calls may be in flight at once."""

    async def complete(self, request: Request) -> Completion:
        """Answer one request.

        Raises:
            EngineError: this call failed; another try may work.
            EngineDied: no call can work any more.
        """
        ...

    def close(self) -> None:
        """Give back processes and connections; no call is in flight any more."""
        ...
