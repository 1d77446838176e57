"""What a policy is given to read: the conversation, or less or more of it, as a control (issue 19).

Where hints are all that tells twins apart, a policy that infers falls below one half when it reads
the twin's messages, and comes to one half when it reads none of the hints.
"""

from __future__ import annotations

from collections.abc import Sequence

from aloe.config.generation import Reads
from aloe.engines import Message
from aloe.roles import Induced, Persona
from aloe.verifiable import CHECKS, hinted

_LAST_EXCHANGE = 3
"""Messages: the user's before, the reply to it, and the user's now."""


def what_is_read(
    reads: Reads, persona: Persona, heard: Sequence[Message]
) -> tuple[list[Message], Induced | None]:
    """The messages that the policy is given, and a hint.

    Args:
        reads: see `aloe.config.Condition`.
        heard: the true conversation; it ends with the user's message.
    """
    match reads:
        case "notes":
            return list(heard), _told(hinted(persona.planned(heard)))
        case "persona":
            return list(heard), _told(persona.preferences)
        case "twin":
            said = [step.text for step in persona.twin.planned(heard)]
            return _with_users(heard, said), None
        case "topics":
            return _with_users(heard, [step.topic for step in persona.planned(heard)]), None
        case "first":
            return list(heard[:1]), None
        case "last":
            return list(heard[-_LAST_EXCHANGE:]), None
    return list(heard), None


def _told(kinds: Sequence[str]) -> Induced:
    return Induced(None, "; ".join(CHECKS[kind].note for kind in kinds) or None)


def _with_users(heard: Sequence[Message], said: Sequence[str]) -> list[Message]:
    """The conversation with other messages of the user in the places of its own."""
    texts = iter(said)
    return [
        {"role": "user", "content": next(texts)} if message["role"] == "user" else message
        for message in heard
    ]
