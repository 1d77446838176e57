"""A comparison in which neither reply is preferred: counted, no pair, nothing to learn."""

from __future__ import annotations

import asyncio
import math

import pytest

from aloe.config import DialogueConfig, ScriptedModel
from aloe.dialogue.look import told_turn
from aloe.dialogue.parts import write_part
from aloe.dialogue.tree import Tree, TreeSeed, grow_tree
from aloe.engines import Completion, Request
from aloe.engines.scripted import ScriptedEngine
from aloe.errors import UserError
from aloe.preferences.export import published_conversation
from aloe.preferences.rows import walk
from aloe.report.trees import build_tree
from aloe.roles import Persona
from aloe.storage import Store

SHAPE = DialogueConfig(turns=2)
ROLES = ("user", "inducer", "guided", "unguided", "judge")
KEEPER = Persona("p", "Keeps bees.", "Dry.")


class Undecided(ScriptedEngine):
    """A judge that finds the replies of one turn equal, or goes by their place."""

    def __init__(self, probability: float) -> None:
        super().__init__("judge", ScriptedModel(backend="scripted"))
        self._probability = probability

    async def complete(self, request: Request) -> Completion:
        values = (self._probability, 1 - self._probability)
        logprobs = dict(zip(request.choices, map(math.log, values), strict=True))
        return Completion("1", "judge", "votes:8", 1, 0, 1, 0.0, choice_logprobs=logprobs)


def tree(probability: float) -> list[dict]:
    script = ScriptedEngine("script", ScriptedModel(backend="scripted"))
    engines = dict.fromkeys(ROLES, script) | {"judge": Undecided(probability)}
    start = TreeSeed("t", KEEPER, "train", 0, "f")
    return asyncio.run(grow_tree(start, engines, SHAPE)).rows


@pytest.mark.parametrize("probability", [0.5, 0.75], ids=["equal", "by place"])
def test_a_tie_prefers_nothing_anywhere(probability, tmp_path):
    rows = tree(probability)
    assert not any(row["preferred"] for row in rows if row["role"] != "user")
    assert not any(row["judge_agrees"] for row in rows if row["role"] != "user")
    views = list(walk(rows))
    assert [view.tie for view in views] == [True, True]
    assert all(view.preferred["on_spine"] for view in views)
    assert "preferred" not in told_turn(KEEPER, rows[:3])
    turns = published_conversation(rows)["conversations"]
    assert len(turns) == 2
    for said in turns:
        assert said["assistant"]["preferred"] == said["assistant"]["rejected"]
    built = build_tree(rows)
    assert [(turn.ties, turn.agreements) for turn in built.turns] == [(1, 0), (1, 0)]
    summary = write_part(Store(str(tmp_path)), "00000000", [Tree(rows, [])], SHAPE)
    even = 2 if probability == 0.5 else 0
    assert (summary.ties, summary.even, summary.agreements) == (2, even, 0)
    assert summary.voted == 2
    expected = 2 * 2 * probability * (1 - probability) / 7 / 4
    assert summary.vote_variance == pytest.approx(expected)


def test_replies_of_which_none_is_preferred_without_a_tie_are_refused():
    rows = tree(0.5)
    for row in rows:
        row["judge_probability"] = 0.9
    with pytest.raises(UserError, match="0 of 2 replies are preferred"):
        list(walk(rows))
