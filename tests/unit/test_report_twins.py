"""The page of a run with twins, and the picture of its benchmark."""

from __future__ import annotations

import pytest

from aloe.report.curves import alignment_curves, knowledge_curves
from aloe.report.drawing import draw_alignment
from aloe.report.twins import choose_twins, replies_are_selected
from aloe.schema import NODES
from aloe.storage import Store


def curve(*values):
    return [
        {"turn": k, "value": v, "low": v - 0.1, "high": v + 0.1} for k, v in enumerate(values, 1)
    ]


def scores(knowable=True):
    found = {
        "baseline": "base",
        "scale": [1, 5],
        "policies": {name: {"al": curve(3.0, 3.5)} for name in ("base", "sft", "random", "ideal")},
    }
    if knowable:
        known = {
            name: {"nats": curve(0.0, 0.9), "best": curve(3.0, 4.5)} for name in found["policies"]
        }
        found["knowable"] = {"entropy": 1.386, "policies": known}
    return found


def test_equal_numbers_give_equal_pictures():
    picture = draw_alignment(scores(), "Twins <&>")
    assert picture == draw_alignment(scores(), "Twins <&>")
    assert picture.startswith("<?xml")
    assert picture != draw_alignment(scores(knowable=False), "Twins <&>")


def test_a_policy_without_intervals_is_drawn():
    alone = scores(knowable=False)
    for point in alone["policies"]["sft"]["al"]:
        point["low"] = point["high"] = None
    assert "<svg" in draw_alignment(alone, "x")


def test_what_could_be_known_stands_in_the_charts():
    (levels,) = alignment_curves(scores())
    names = [trace["name"] for trace in levels.traces]
    assert "AL* with sft" in names
    assert "one half" in names
    (nats,) = knowledge_curves(scores())
    assert {trace["name"] for trace in nats.traces} == {*scores()["policies"], "all there is"}
    assert knowledge_curves(scores(knowable=False)) == []
    assert len(alignment_curves(scores(knowable=False))[0].traces) == 8


def node(tree, kinds, turn, role, **values):
    row = dict.fromkeys(NODES.names)
    row |= {"tree_id": tree, "node_id": f"{tree}{turn}{role}", "turn": turn, "role": role}
    row |= {"text": "How nice!", "branch": 1 << (turn - 1), "twin_id": "t", "profile": "Bakes."}
    return row | {"preferences": list(kinds), "split": "train", "calls": []} | values


def test_twins_stand_side_by_side_with_what_each_reply_met(tmp_path):
    store = Store(str(tmp_path))
    rows = []
    for tree, kinds in (("a", ("asks", "exclaims")), ("b", ("asks_nothing", "calm"))):
        for turn in (1, 2):
            hint = kinds[0] if turn == 2 else None
            rows.append(node(tree, kinds, turn, "user", hint=hint, induced_personality=hint))
            rows.append(node(tree, kinds, turn, "guided", sample=0, on_spine=True, selected=False))
            rows.append(node(tree, kinds, turn, "guided", sample=1, on_spine=False, selected=True))
    store.write_table("dialogue/nodes/00000000.parquet", rows, NODES)
    (twins,) = choose_twins(store, 5, 0)
    assert [twin.preferences for twin in twins.pair] == [
        ["asks", "exclaims"],
        ["asks_nothing", "calm"],
    ]
    turn = twins.pair[0].turns[1]
    assert (turn.hint, turn.noted, turn.met) == ("asks", "asks", {"asks": False, "exclaims": True})
    assert twins.pair[1].turns[0].met == {"asks_nothing": True, "calm": False}


@pytest.mark.parametrize("selected", [True, False])
def test_trees_of_pairs_are_told_from_selected_replies(tmp_path, selected):
    store = Store(str(tmp_path))
    assert not replies_are_selected(store)
    rows = [
        node("a", ("asks",), 1, role, on_spine=role != "unguided")
        | ({"selected": False} if selected and role != "user" else {})
        for role in ("user", "guided", "unguided")
    ]
    store.write_table("dialogue/nodes/00000000.parquet", rows, NODES)
    assert replies_are_selected(store) == selected
