"""What every engine understands: one request, one completion, counted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from aloe.chat.message import Message


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
    met: tuple[float, ...] = ()
    """Of each reply that is judged the share of checkable preferences that it meets, see
    `aloe.verifiable`; empty where the person holds none. Only a verifiable judge reads it."""
    said: str = ""
    """What a program says here; only a verifiable user, inducer or policy does."""
    stop: tuple[str, ...] = ()
    """Texts at which generation ends; none of them is part of the answer."""
    thinks: bool = False
    """The model's ``thinking_tokens`` come on top of max_tokens."""
    options: str = ""
    """What is put behind the last message where a choice has to be asked for in words; empty: an
    English sentence that names the choices."""
    conversation: str = ""
    """Tree or case that the call belongs to: a pool sends all of its calls to one engine."""


@dataclass(frozen=True)
class Completion:
    """One answer and what it cost."""

    text: str
    """As it was said, without `reasoning`; unpaired surrogates and NUL are U+FFFD."""
    model: str
    finish_reason: str
    """``stop`` where the model ended its turn, ``length`` where max_tokens did, ``stop_text`` where
    one of `Request.stop` did (a server that applies it itself calls that ``stop`` too); ``refusal``
    or ``content_filter`` where a server answered with no text for that reason."""
    prompt_tokens: int
    cached_tokens: int
    """Prompt tokens that the engine served from its prefix cache."""
    completion_tokens: int
    seconds: float
    reusable_tokens: int = 0
    """Prompt tokens that a cache which keeps all of the open conversations could have served; 0 if
    the engine has no cache."""
    cost_usd: float = 0.0
    """Price of the call, by the model's ``price`` in the configuration."""
    choice_logprobs: dict[str, float] = field(default_factory=dict)
    """Choice -> natural log of its probability among the choices (they sum to 1); empty if none of
    them is among a server's likeliest answers."""
    with_logprobs: bool = True
    """False where a server gives no log-probs at all, whatever it answers."""
    reasoning: str = ""
    """What the model thought before it spoke; nobody in the conversation reads it."""
    replaced: int = 0
    """Characters of text and reasoning that were no characters, and became U+FFFD."""


@dataclass(frozen=True)
class Load:
    """How busy an engine is now; what `aloe.engines.admission` decides on."""

    running: int
    """Calls that are being computed."""
    waiting: int
    """Calls that the engine has taken but not begun."""
    capacity: int
    """Most calls that it computes at once."""
    kv_usage: float = 0.0
    """Share of the KV cache that running calls hold, in [0, 1]."""
    preemptions: int = 0
    """Calls that lost their KV cache to others, since the engine started."""
    reusable_tokens: int = 0
    """Sum of `Completion.reusable_tokens` since the engine started."""
    cached_tokens: int = 0
    """Sum of `Completion.cached_tokens` since the engine started."""


class Engine(Protocol):
    """Someone who speaks. Many `complete` calls may be in flight at once."""

    async def complete(self, request: Request) -> Completion:
        """Answer one request.

        Raises:
            EngineError: this call failed; another try may work.
            ContextExceeded: the prompt is too long; no other try can work.
            TemplateRefused: the model's chat template does not take it; nor can another try work.
            WorldFault: no call can work for now, or until somebody sees to it.
            EngineDied: no call can work any more.
        """
        ...

    def load(self) -> Load:
        """How busy the engine is."""
        ...

    def release(self, conversation: str) -> None:
        """A conversation has ended: what was kept for it is dropped."""
        ...

    def close(self) -> None:
        """Give back processes and connections; no call is in flight any more."""
        ...


@runtime_checkable
class Looking(Protocol):
    """An engine that can find out whether anybody is there."""

    async def look(self) -> None:
        """Raises WorldFault if nobody is."""
        ...
