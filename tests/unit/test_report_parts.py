"""From tables and manifests to what the report's sections show."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from report_run import report_config, tree_nodes, write_errors, write_trees

from aloe.errors import UserError
from aloe.report import write_report
from aloe.report.curves import training_curves
from aloe.report.pools import project
from aloe.report.summary import error_rows, pair_results
from aloe.report.trees import build_tree, choose_trees
from aloe.schema import NODES
from aloe.storage import Store, load_manifest


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path / "run"))


def stored_nodes(turns, seed, **shape):
    rows = tree_nodes("t", turns=turns, rng=random.Random(seed), **shape)
    return pa.Table.from_pylist(rows, schema=NODES).to_pylist()


def test_a_tree_is_a_spine_with_a_sibling_at_each_turn():
    nodes = stored_nodes(turns=4, seed=1)
    random.Random(2).shuffle(nodes)
    tree = build_tree(nodes)
    assert [turn.number for turn in tree.turns] == [1, 2, 3, 4]
    for turn in tree.turns:
        assert [reply.place for reply in turn.replies] == ["carries on", "leaf"]
        assert {reply.role for reply in turn.replies} == {"guided", "unguided"}
        assert sum(reply.preferred for reply in turn.replies) == 1
        assert turn.aside == []
    assert (tree.turns_aside, tree.turns_hidden) == (0, 0)
    assert tree.turns[0].induced_profile is None
    assert tree.turns[1].induced_profile


def test_branches_hang_below_the_turn_that_they_leave():
    nodes = stored_nodes(turns=4, seed=1, both=True, samples=3)
    random.Random(2).shuffle(nodes)
    tree = build_tree(nodes)
    assert [turn.number for turn in tree.turns] == [1, 2, 3, 4]
    assert [[turn.number for turn in spine.aside] for spine in tree.turns] == [
        [2, 3, 4],
        [3, 4],
        [4],
        [],
    ]
    assert tree.turns_aside == 15 - 4
    assert tree.turns_hidden == 15 - 4 - 6
    assert tree.comparisons == 15 * 3
    for turn in [*tree.turns[:-1], *tree.turns[0].aside[:-1]]:
        places = [reply.place for reply in turn.replies]
        assert places == ["carries on", "branches off", *["leaf"] * 4]
    assert [reply.place for reply in tree.turns[-1].replies].count("carries on") == 1


def test_a_tree_with_branches_is_a_page(store):
    store.write_table(
        "dialogue/nodes/part.parquet", stored_nodes(4, seed=1, both=True, samples=2), NODES
    )
    write_report(report_config(store.root), store)
    html = store.read_text("report", "index.html")
    assert html.count('<li class="turn">') == 4 + 6
    assert html.count('<details class="branch">') == 3
    assert "4 turns and 11 on other branches" in html
    assert "5 further turns lie on branches of branches" in html


def test_judge_probabilities_of_both_orders():
    turn = build_tree(stored_nodes(turns=1, seed=5)).turns[0]
    one, other = turn.replies
    for reply in turn.replies:
        assert (reply.shown_first + reply.shown_second) / 2 == pytest.approx(
            reply.probability, abs=1e-6
        )
    assert one.shown_first == pytest.approx(1 - other.shown_second, abs=1e-6)


def test_trees_are_drawn_by_seed_and_mostly_stay_when_more_come_in(store):
    write_trees(store, trees=24, turns=1, rng=random.Random(0))
    first, available = choose_trees(store, 5, seed=1)
    again, _ = choose_trees(store, 5, seed=1)
    other, _ = choose_trees(store, 5, seed=2)
    assert available == 24
    assert [t.tree_id for t in first] == [t.tree_id for t in again]
    assert len({t.tree_id for t in first}) == 5
    assert [t.tree_id for t in first] != [t.tree_id for t in other]
    write_trees(store, trees=26, turns=1, rng=random.Random(0))
    grown, _ = choose_trees(store, 5, seed=1)
    assert len({t.tree_id for t in first} & {t.tree_id for t in grown}) >= 3


def test_no_more_files_are_read_than_trees_are_shown(store):
    write_trees(store, trees=12, turns=1, rng=random.Random(0), per_part=2)
    manifest = replace(load_manifest(store, "dialogue"), complete=False).save(store)
    assert choose_trees(store, 6, seed=1)[1] == 12
    first, unknown = choose_trees(store, 3, seed=1)
    assert (len(first), unknown) == (3, None)
    replace(manifest, complete=True).save(store)
    ranked = [name for name in store.names("dialogue/nodes") if not _is_read(store, name)]
    assert len(ranked) == 3


def _is_read(store, name):
    """Whether the draw of three trees fails once this file is broken."""
    whole = store.read_bytes("dialogue/nodes", name)
    store.write_bytes(f"dialogue/nodes/{name}", b"broken")
    try:
        choose_trees(store, 3, seed=1)
    except UserError:
        return True
    finally:
        store.write_bytes(f"dialogue/nodes/{name}", whole)
    return False


def test_before_and_after_share_a_row():
    rows = pair_results(
        {
            "loss_before": 0.7,
            "loss_after": 0.5,
            "accuracy_interval_before": [0.4, 0.6],
            "accuracy_before": 0.5,
            "accuracy_after": 0.6,
            "margin_after": 0.1,
            "steps": 12,
        }
    )
    by_name = {row.name: row for row in rows}
    assert list(by_name) == ["loss", "accuracy", "margin", "steps"]
    assert (by_name["loss"].before, by_name["loss"].after) == (0.7, 0.5)
    assert by_name["accuracy"].before_interval == [0.4, 0.6]
    assert by_name["accuracy"].after_interval is None
    assert by_name["margin"].before is None
    assert by_name["steps"].value == 12


def test_errors_are_counted_by_kind(store):
    write_errors(store)
    (row,) = error_rows(store)
    assert (row.stage, row.role, row.kind, row.count) == (
        "dialogue",
        "inducer",
        "MalformedAnswer",
        2,
    )


def test_projection_finds_the_plane_of_the_points():
    rng = np.random.default_rng(0)
    plane = rng.normal(size=(2, 10))
    points = rng.normal(size=(30, 2)) @ plane + 3.0
    places, explained = project(points)
    assert explained == pytest.approx(1.0)
    distances = np.linalg.norm(points[:, None] - points[None], axis=-1)
    assert np.linalg.norm(places[:, None] - places[None], axis=-1) == pytest.approx(distances)


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_projection_of_equal_points_is_the_origin(count):
    places, explained = project(np.ones((count, 4)))
    assert places.shape == (count, 2)
    assert not places.any()
    assert explained == 0.0


def test_both_replies_and_all_phases_share_charts():
    row = {"stage": "dpo", "split": "train", "step": 1, "value": 0.5}
    names = ["loss", "kl", "length_preferred", "length_rejected", "seconds_forward"]
    names += ["seconds_backward", "seconds_update", "seconds_reference", "reward_preferred"]
    figures = {figure.id: figure for figure in training_curves([row | {"name": n} for n in names])}
    assert set(figures) == {"dpo-loss", "dpo-kl", "dpo-lengths", "dpo-phases"}
    assert [trace["name"] for trace in figures["dpo-lengths"].traces] == ["preferred", "rejected"]
    phases = [trace["name"] for trace in figures["dpo-phases"].traces]
    assert phases == ["forward", "backward", "update", "reference"]


def test_margins_of_all_turns_make_one_curve_of_the_last_measurement():
    row = {"stage": "dpo", "split": "validation"}
    values = {(0, 1): 0.0, (0, 2): 0.0, (9, 2): 0.4, (9, 1): 0.1, (9, 10): 0.7}
    told = [
        {**row, "step": step, "name": f"margin_turn_{turn}", "value": value}
        for (step, turn), value in values.items()
    ]
    (figure,) = training_curves(told)
    assert figure.id == "dpo-turns"
    assert figure.traces[0]["x"] == [1, 2, 10] and figure.traces[0]["y"] == [0.1, 0.4, 0.7]


def test_a_loss_that_is_not_a_number_leaves_a_gap():
    row = {"stage": "sft", "split": "train", "name": "loss"}
    values = [(2, float("nan")), (1, 0.5)]
    (figure,) = training_curves([row | {"step": step, "value": value} for step, value in values])
    (trace,) = figure.traces
    assert (trace["x"], trace["y"]) == ([1, 2], [0.5, None])
