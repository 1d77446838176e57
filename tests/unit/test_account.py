"""What a run may spend: the sums, the ledger, the question before each turn."""

from __future__ import annotations

import asyncio

import pytest
from scripted_runs import scripted_values

from aloe.config import Config, DialogueConfig, EvaluationConfig, ScriptedModel
from aloe.dialogue.tree import TreeSeed, grow_tree
from aloe.engines.account import Account, Allowance
from aloe.engines.board import Board
from aloe.engines.scripted import ScriptedEngine
from aloe.errors import StageStopped, WorldFault
from aloe.evaluation.case import Case, CaseStopped, play_case
from aloe.progress import Meter
from aloe.roles import Persona
from aloe.storage import Manifest, Store, Usage
from aloe.storage.spending import note_spent, spent_by_stage

PERSONA = Persona("p", "Keeps bees.", "Dry.")


def spent(tokens: int, usd: float = 0.0) -> Usage:
    return Usage(calls=1, prompt_tokens=tokens - 1, completion_tokens=1, cost_usd=usd)


def account(folder, stage: str = "dialogue", **limits) -> Account:
    values = scripted_values(folder)
    values["run"] |= limits
    values["models"]["script"]["price"] = {"prompt": 1}
    config = Config.model_validate(values)
    return Account(config, Store(config.run.dir), stage)


def test_the_ledger_counts_what_was_thrown_away_and_a_manifest_what_it_forgot(tmp_path):
    store = Store(str(tmp_path / "run"))
    assert spent_by_stage(store) == {}
    Manifest("personas", {}, "f", complete=True, usage=spent(50)).save(store)
    Manifest("training/ppo", {}, "f", usage=spent(7)).save(store)
    note_spent(store, "personas", spent(80))
    note_spent(store, "training/ppo", spent(5))
    note_spent(store, "dialogue", spent(9))
    tokens = {
        stage: usage.prompt_tokens + usage.completion_tokens
        for stage, usage in spent_by_stage(store).items()
    }
    assert tokens == {"dialogue": 9, "personas": 80, "training/ppo": 7}


def test_limits_count_all_stages_and_all_starts(tmp_path):
    store = Store(str(tmp_path / "run"))
    note_spent(store, "personas", spent(40, 0.4))
    first = account(tmp_path, max_tokens=100)
    assert first.allowance() == Allowance(60, None)
    first.spend(spent(30, 0.3))
    assert first.open
    first.note()
    second = account(tmp_path, max_tokens=100)
    assert second.allowance() == Allowance(30, None)
    second.spend(spent(30))
    second.note()
    assert not second.open
    with pytest.raises(StageStopped, match=r"100 tokens of run\.max_tokens 100 are spent"):
        account(tmp_path, max_tokens=100)
    assert account(tmp_path, max_tokens=101).open  # a raised limit goes on
    with pytest.raises(StageStopped, match=r"\$0\.70 of run\.max_cost_usd 0\.7"):
        account(tmp_path, max_cost_usd=0.7)


def test_the_bar_shows_what_is_spent_of_the_limit(tmp_path):
    both = account(tmp_path, max_tokens=1000, max_cost_usd=2)
    both.spend(spent(300, 0.5))
    meter = Meter("dialogue trees", 4, turns_each=3, spending=both)
    assert meter.count() == "0/4, turns 0/12, 300/1,000 tokens, $0.50/$2.00"
    assert meter.fields()["spent_tokens"] == 300
    assert meter.fields()["max_cost_usd"] == 2
    without = Meter("dialogue trees", 4, spending=account(tmp_path))
    assert without.count() == "0/4"
    assert "max_tokens" not in without.fields()


def test_a_board_says_no_from_the_token_that_reaches_the_limit():
    board = Board(Allowance(tokens=100))
    assert board.covers(spent(60))
    board.add(1, 5, spent(39))
    assert board.covers(Usage())
    assert not board.covers(spent(1))
    turns, tokens, usage, _ = board.read()
    assert (turns, tokens, usage.prompt_tokens + usage.completion_tokens) == (1, 5, 100)
    assert board.read()[2] == Usage()
    assert not board.covers(Usage())


def counting(turns: int):
    """Says yes that many times."""
    left = [turns]

    async def may_start() -> bool:
        left[0] -= 1
        return left[0] >= 0

    return may_start


@pytest.mark.parametrize("branching", ["spine", "both"])
@pytest.mark.parametrize("allowed", [0, 1, 3, 6])
def test_a_stopped_tree_keeps_its_turns_and_becomes_what_it_would_have_been(branching, allowed):
    config = DialogueConfig(turns=3, branching=branching)
    engine = ScriptedEngine("s", ScriptedModel(backend="scripted"))
    engines = dict.fromkeys(("user", "inducer", "guided", "unguided", "judge"), engine)
    seed = TreeSeed("t", PERSONA, "train", 1, "f")
    whole = asyncio.run(grow_tree(seed, engines, config)).rows
    kept: list[dict] = []

    async def keep(rows):
        kept[:] = rows

    def grow():
        may_start = counting(allowed)
        return asyncio.run(grow_tree(seed, engines, config, kept, keep, may_start=may_start)).rows

    if allowed * 3 >= len(whole):
        assert grow() == whole
        return
    with pytest.raises(StageStopped):
        grow()
    assert len(kept) == 3 * allowed
    assert asyncio.run(grow_tree(seed, engines, config, list(kept))).rows == whole


def test_a_stopped_case_goes_on_from_its_turns():
    config = EvaluationConfig(turns=3)
    engine = ScriptedEngine("s", ScriptedModel(backend="scripted"))
    engines = dict.fromkeys(("user", "policy", "judge"), engine)
    case = Case("c", "mine", PERSONA, 1)
    whole = asyncio.run(play_case(case, engines, config))
    kept: list[dict] = []

    async def keep(rows):
        kept[:] = rows

    with pytest.raises(CaseStopped):
        asyncio.run(play_case(case, engines, config, keep, may_start=counting(2)))
    assert kept == whole[:2]
    again = asyncio.run(play_case(case, engines, config, finished=kept))
    assert again == whole


@pytest.mark.parametrize(
    ("models", "named"),
    [
        ({"script": {"backend": "scripted"}}, "price of at least one"),
        (
            {"script": {"backend": "openai", "model": "m"}},
            r"models\.script\.price \(\{\} if it is free\)",
        ),
    ],
)
def test_a_limit_in_dollars_that_cannot_hold_is_refused(tmp_path, models, named):
    values = scripted_values(tmp_path)
    values["run"]["max_cost_usd"] = 1
    values["models"] = models
    with pytest.raises(ValueError, match=named):
        Config.model_validate(values)


def test_who_cannot_go_on_sees_whether_others_do(monkeypatch):
    board = Board(Allowance())
    board.add(1, 5, spent(1), "a")
    assert not board.others_get_on("a")  # it has nobody beside it
    board.add(1, 5, spent(1), "b")
    assert board.others_get_on("a")
    assert not board.others_get_on("b")  # nor has it, now
    assert not board.others_get_on("a")
    board.add(1, 5, spent(1), "c")
    monkeypatch.setattr("aloe.engines.board._GETS_ON_S", 0.0)
    assert not board.others_get_on("a")


def test_a_store_that_is_down_for_a_moment_costs_no_spending(tmp_path, monkeypatch):
    told = account(tmp_path)

    def down(*_):
        raise WorldFault("disk full", passes=False)

    with monkeypatch.context() as patch:
        patch.setattr("aloe.engines.account.note_spent", down)
        told.spend(spent(30))
        told.note()
    told.spend(spent(12))
    told.note()
    (usage,) = spent_by_stage(Store(str(tmp_path / "run"))).values()
    assert usage.prompt_tokens + usage.completion_tokens == 42
