import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aloe.config import DialogueConfig, ScriptedModel
from aloe.dialogue.tree import TreeFailed, TreeSeed, grow_tree
from aloe.engines.scripted import ScriptedEngine
from aloe.errors import MalformedAnswer
from aloe.preferences.rows import pair_row, sft_row, walk
from aloe.roles import Persona
from aloe.schema import NODES, PAIRS, SFT
from aloe.storage import Store

ROLES = ("user", "inducer", "guided", "unguided", "judge")


def grow(turns: int, seed: int, tree: str = "t") -> list[dict]:
    engine = ScriptedEngine("script", ScriptedModel(backend="scripted"))
    start = TreeSeed(tree, Persona("p", "Keeps bees.", "Dry."), "train", seed, "f")
    return asyncio.run(grow_tree(start, dict.fromkeys(ROLES, engine), DialogueConfig(turns=turns)))


shapes = given(turns=st.integers(1, 6), seed=st.integers(0, 10**6))


@shapes
@settings(deadline=None, max_examples=40)
def test_a_tree_is_a_spine_with_a_sibling_leaf_at_each_turn(turns, seed):
    nodes = grow(turns, seed)
    by_id = {node["node_id"]: node for node in nodes}
    assert len(nodes) == len(by_id) == 3 * turns
    for number in range(1, turns + 1):
        turn = {node["role"]: node for node in nodes if node["turn"] == number}
        assert set(turn) == {"user", "guided", "unguided"}
        replies = [turn["guided"], turn["unguided"]]
        assert {reply["parent_id"] for reply in replies} == {turn["user"]["node_id"]}
        assert sum(reply["on_spine"] for reply in replies) == 1
        assert sum(reply["preferred"] for reply in replies) == 1
        assert sum(reply["judge_probability"] for reply in replies) == pytest.approx(1)
        best = max(replies, key=lambda reply: reply["judge_probability"])
        assert best["preferred"]
        parent = turn["user"]["parent_id"]
        if number == 1:
            assert parent is None
        else:
            assert by_id[parent]["on_spine"]
            assert by_id[parent]["turn"] == number - 1


@shapes
@settings(deadline=None, max_examples=20)
def test_equal_seeds_grow_equal_trees(turns, seed):
    assert grow(turns, seed) == grow(turns, seed)
    assert grow(turns, seed) != grow(turns, seed + 1)


def test_the_spine_is_drawn_at_random():
    picks = [
        node["role"]
        for seed in range(20)
        for node in grow(3, seed)
        if node["on_spine"] and node["role"] != "user"
    ]
    assert 15 < picks.count("guided") < 45


def test_trees_fit_their_schema(tmp_path):
    store = Store(str(tmp_path))
    nodes = grow(3, 1)
    store.write_table("n.parquet", nodes, NODES)
    back = store.read_table("n.parquet", NODES).to_pylist()
    assert [row["text"] for row in back] == [row["text"] for row in nodes]
    assert all(len(row["calls"]) == 2 for row in back)


@shapes
@settings(deadline=None, max_examples=40)
def test_rows_hold_the_history_that_was_held(turns, seed):
    nodes = grow(turns, seed)
    said = {(node["turn"], node["role"]): node["text"] for node in nodes}
    spine = {
        node["turn"]: node["text"] for node in nodes if node["on_spine"] and node["role"] != "user"
    }
    for number, view in enumerate(walk(nodes), start=1):
        pair, sft = pair_row(view), sft_row(view)
        assert set(pair) == set(PAIRS.names)
        assert set(sft) == set(SFT.names)
        texts = [message["content"] for message in pair["prompt"][1:]]
        expected = []
        for past in range(1, number):
            expected += [said[past, "user"], spine[past]]
        assert texts == [*expected, said[number, "user"]]
        assert {pair["preferred"], pair["rejected"]} == {
            said[number, "guided"],
            said[number, "unguided"],
        }
        assert sft["response"] == pair["preferred"]


class Mute(ScriptedEngine):
    """Answers until the given call, then nothing usable ever again."""

    def __init__(self, calls: int) -> None:
        super().__init__("mute", ScriptedModel(backend="scripted"))
        self.left = calls

    async def complete(self, request):
        completion = await super().complete(request)
        self.left -= 1
        if self.left < 0:
            raise MalformedAnswer("nothing to say")
        return completion


def test_a_failed_tree_says_where_and_what_it_cost():
    start = TreeSeed("t", Persona("p", "a", "b"), "train", 0, "f")
    engine = ScriptedEngine("script", ScriptedModel(backend="scripted"))
    engines = dict.fromkeys(ROLES, engine) | {"judge": Mute(2)}
    with pytest.raises(TreeFailed) as caught:
        asyncio.run(grow_tree(start, engines, DialogueConfig(turns=3)))
    row = caught.value.row
    assert (row["stage"], row["item_id"], row["turn"], row["role"]) == ("dialogue", "t", 2, "judge")
    assert row["kind"] == "MalformedAnswer"
    assert len(row["calls"]) == 6 + 1
    assert all(call["tries"] >= 1 for call in row["calls"])
