"""Who says what in a conversation: the prompts of each role and how its answer is read.

Dialogue trees and the benchmark talk through the same roles, so the simulated user that a policy
is trained with is the one that it is measured with.
"""

from aloe.roles.asking import Answer, ask, unanswered, within
from aloe.roles.prompt_checks import prompts_of
from aloe.roles.prompts import BUILT_IN, Prompts
from aloe.roles.speak import (
    Induced,
    Persona,
    Preference,
    expected_score,
    induce,
    is_even,
    persona_of,
    policy_messages,
    prefer,
    replies_in,
    reply,
    say_user,
    score,
)

__all__ = [
    "BUILT_IN",
    "Answer",
    "Induced",
    "Persona",
    "Preference",
    "Prompts",
    "ask",
    "expected_score",
    "induce",
    "is_even",
    "persona_of",
    "policy_messages",
    "prefer",
    "prompts_of",
    "replies_in",
    "reply",
    "say_user",
    "score",
    "unanswered",
    "within",
]
