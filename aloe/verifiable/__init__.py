"""People whose preferences a program can check, the user that it can play, and what can be known.

Imports nothing that is heavy: environments for other libraries are made of it.
"""

from aloe.verifiable.checks import CHECKS, OPPOSITE, PAIRS, in_words, share_met
from aloe.verifiable.knowledge import (
    Belief,
    beliefs,
    best_reply,
    best_share,
    expected_share,
    nats,
    types,
)
from aloe.verifiable.person import Person, Step, conversation, hinted, missed, twin_of
from aloe.verifiable.replies import ProgramPolicy, program_reply, reply_that_meets
from aloe.verifiable.wordings import Part

__all__ = [
    "CHECKS",
    "OPPOSITE",
    "PAIRS",
    "Belief",
    "Part",
    "Person",
    "ProgramPolicy",
    "Step",
    "beliefs",
    "best_reply",
    "best_share",
    "conversation",
    "expected_share",
    "hinted",
    "in_words",
    "missed",
    "nats",
    "program_reply",
    "reply_that_meets",
    "share_met",
    "twin_of",
    "types",
]
