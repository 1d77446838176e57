"""Numbers of a tree's branches, and which of them are grown: pure arithmetic.

Branch 1 is the first turn. Branch b goes on as 2b after the reply that is picked at random (the
paper) and, with ``branching: both``, as 2b + 1 after a reply of the other role. So the spine is
1, 2, 4, 8..., and branches are numbered turn by turn. Whether a branch is within the budget is
known from its number alone: branches need not wait for each other.
"""

from __future__ import annotations

import random
from typing import Literal, NamedTuple

from aloe.config import DialogueConfig
from aloe.schema import derive_seed

ReplyRole = Literal["guided", "unguided"]
REPLY_ROLES: tuple[ReplyRole, ...] = ("guided", "unguided")


class Pick(NamedTuple):
    """A reply with which the conversation goes on."""

    role: ReplyRole
    sample: int


def turn_of(branch: int) -> int:
    """The turn, from 1, that a branch's nodes belong to."""
    return branch.bit_length()


def is_spine(branch: int) -> bool:
    """Whether every turn up to this one went on with the reply picked at random."""
    return branch.bit_count() == 1


def nodes_per_turn(config: DialogueConfig) -> int:
    """One user message and the replies, of both roles where none is selected."""
    if config.select is not None:
        return 1 + config.select.samples
    return 1 + len(REPLY_ROLES) * config.samples


def turns_per_tree(config: DialogueConfig) -> int:
    """Turns of a whole tree, over all branches."""
    every = config.turns if config.branching == "spine" else 2**config.turns - 1
    return min(every, config.max_nodes // nodes_per_turn(config))


def branches_by_turn(config: DialogueConfig) -> list[int]:
    """How many branches of a whole tree have each turn, from the first."""
    most = config.max_nodes // nodes_per_turn(config)
    if config.branching == "spine":
        return [1] * min(config.turns, most)
    places = [2**turn for turn in range(config.turns)]  # branches before a turn, and one
    return [min(place, most + 1 - place) for place in places if place <= most]


def branches_after(branch: int, config: DialogueConfig) -> list[int]:
    """Branches with which the tree goes on from this one: none, 2b, or 2b and 2b + 1."""
    after = [2 * branch] if config.branching == "spine" else [2 * branch, 2 * branch + 1]
    return [
        number
        for number in after
        if turn_of(number) <= config.turns
        and _rank(number, config) * nodes_per_turn(config) <= config.max_nodes
    ]


def turns_from(branch: int, config: DialogueConfig) -> int:
    """Turns of a whole tree that hang on this branch, itself included."""
    return 1 + sum(turns_from(number, config) for number in branches_after(branch, config))


def picks(seed: int, samples: int) -> tuple[Pick, Pick]:
    """The replies of one turn that branches 2b and 2b + 1 go on with.

    Args:
        seed: of the turn.
        samples: replies per role.
    """
    # Of one reply per role, this is the paper's toss of a coin.
    replies = [Pick(role, sample) for role in REPLY_ROLES for sample in range(samples)]
    picked = random.Random(seed).choice(replies)
    other: ReplyRole = "unguided" if picked.role == "guided" else "guided"
    return picked, Pick(other, random.Random(derive_seed(seed, other)).randrange(samples))


def _rank(branch: int, config: DialogueConfig) -> int:
    """Place of a branch, from 1, among those of a tree without a budget."""
    return turn_of(branch) if config.branching == "spine" else branch
