"""One case of the benchmark: a policy talks to a simulated user, a judge scores every reply."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aloe.config import EvaluationConfig
from aloe.config.generation import Reads
from aloe.engines import Engine, Message
from aloe.errors import CallFailed, WorldFault
from aloe.evaluation.reading import what_is_read
from aloe.roles import (
    BUILT_IN,
    Persona,
    Prompts,
    expected_score,
    replies_in,
    reply,
    say_user,
    score,
    within,
)
from aloe.schema import derive_seed
from aloe.verifiable import ProgramPolicy, program_reply


@dataclass(frozen=True)
class Case:
    """One policy with one held-out persona."""

    case_id: str
    policy: str
    persona: Persona
    seed: int
    """Of the run. The policy is no part of any sampler's seed: so cases are paired."""
    prompts: Prompts = BUILT_IN
    reads: Reads = "conversation"
    """What the policy is given, see `aloe.evaluation.reading`."""
    program: ProgramPolicy | None = None
    """The policy, where it is none of a model."""
    pairs: tuple[str, ...] = ()
    """Pairs of opposite kinds from which persona's are drawn; a program reads the conversation by
    them."""


class CaseStopped(Exception):
    """The case ends for now, as its next turn may not start."""


class CaseFailed(Exception):
    """A call of this case failed for good; carries the row for the errors table."""

    def __init__(self, row: dict[str, Any]) -> None:
        super().__init__(row["message"])
        self.row = row


async def play_case(
    case: Case,
    engines: Mapping[str, Engine],
    config: EvaluationConfig,
    keep: Callable[[list[dict[str, Any]]], Awaitable[None]] | None = None,
    finished: Sequence[dict[str, Any]] = (),
    may_start: Callable[[], Awaitable[bool]] | None = None,
) -> list[dict[str, Any]]:
    """Hold one conversation of ``config.turns`` turns (paper section 4).

    Args:
        engines: by role (user, policy, judge). The policy reads the conversation alone.
        keep: awaited with the rows of all finished turns after each that is finished here.
        finished: rows of turns that were finished before, in order: the case goes on from them.
        may_start: asked before each turn.

    Returns:
        Rows of `aloe.schema.SCORES`, one per turn, in order.

    Raises:
        CaseFailed: one call had no usable answer in ``config.tries`` tries.
        CaseStopped: a turn might not start.
    """
    speakers = within(engines, case.case_id)
    rows = list(finished)
    history = [message for row in rows for message in _said(row)]
    for turn in range(len(rows) + 1, config.turns + 1):
        if may_start is not None and not await may_start():
            raise CaseStopped(f"stopped after {len(rows)} turns")
        calls: list[dict[str, Any]] = []
        try:
            row = await _play_turn(case, turn, history, speakers, config, calls)
        except WorldFault as fault:
            raise CaseStopped(f"stopped after {len(rows)} turns") from fault
        except CallFailed as error:
            spent = [call for row in rows for call in row["calls"]] + calls
            raise CaseFailed(error_row(case, turn, error, spent)) from error
        rows.append(row)
        if keep is not None:
            await keep(rows)
        history += _said(row)
    return rows


def _said(row: dict[str, Any]) -> list[Message]:
    return [
        {"role": "user", "content": row["user"]},
        {"role": "assistant", "content": row["reply"]},
    ]


async def _play_turn(
    case: Case,
    turn: int,
    history: list[Message],
    engines: Mapping[str, Engine],
    config: EvaluationConfig,
    calls: list[dict[str, Any]],
) -> dict[str, Any]:
    persona, prompts = case.persona, case.prompts
    sampling, tries = config.sampling, config.tries
    seed = derive_seed(case.seed, persona.sampled_as, turn)

    user = await say_user(engines["user"], persona, history, sampling, tries, seed, prompts)
    calls.append(user.call)
    heard: list[Message] = [*history, {"role": "user", "content": user.value}]
    read, hint = what_is_read(case.reads, persona, heard)
    answer = await reply(
        engines["policy"],
        "policy",
        read,
        hint,
        sampling,
        tries,
        seed,
        prompts,
        _by_program(case, heard, seed),
    )
    calls.append(answer.call)
    rating = await score(engines["judge"], persona, heard, answer.value, tries, seed, prompts)
    calls.append(rating.call)
    return {
        "case_id": case.case_id,
        "policy": case.policy,
        "persona_id": persona.persona_id,
        "turn": turn,
        "user": user.value,
        "reply": answer.value,
        "reasoning": answer.reasoning or None,
        "finish_reason": answer.call["finish_reason"],
        "score": expected_score(rating.value),
        "probabilities": rating.value,
        "calls": calls,
    }


def _by_program(case: Case, heard: Sequence[Message], seed: int) -> str:
    """What a policy that is a program says; empty for one that is a model."""
    if case.program is None:
        return ""
    assert case.persona.plan is not None
    return program_reply(case.program, case.persona.plan, replies_in(heard), case.pairs, seed)


def error_row(
    case: Case, turn: int, error: CallFailed, spent: list[dict[str, Any]]
) -> dict[str, Any]:
    """Row of `aloe.schema.ERRORS` for a case that ends by a failed call, after ``spent`` ones."""
    return {
        "stage": "evaluation",
        "item_id": case.case_id,
        "persona_id": case.persona.persona_id,
        "turn": turn,
        "branch": None,
        "role": error.role,
        "kind": error.kind,
        "message": str(error),
        "calls": [*spent, error.call],
    }
