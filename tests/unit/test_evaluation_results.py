import io
import json

import numpy as np
import pyarrow as pa
import pytest
from rich.console import Console

from aloe.evaluation.results import benchmark_results, cases_by_policy
from aloe.evaluation.table import evaluation_table
from aloe.schema import SCORES

TURNS = 6


def rising(start: float, slope: float, cases: int, seed: int = 0) -> dict:
    rng = np.random.default_rng(seed)
    turns = np.arange(1, TURNS + 1)
    return {f"p{i}": start + slope * turns + rng.normal(0, 0.2) for i in range(cases)}


@pytest.fixture
def results() -> dict:
    policies = {"base": rising(2.0, 0.0, 12), "trained": rising(2.5, 0.1, 12)}
    return benchmark_results(policies, "base", samples=200, confidence=0.95, seed=1)


def test_results_have_the_shape_that_the_report_reads(results):
    assert set(results) == {"baseline", "scale", "policies", "paired", "successive"}
    numbers = results["policies"]["trained"]
    assert set(numbers) == {"cases", "al", "al_mean", "ir", "n_ir", "r2"}
    assert [level["turn"] for level in numbers["al"]] == list(range(1, TURNS + 1))
    assert set(numbers["al"][0]) == {"turn", "value", "low", "high"}
    assert json.loads(json.dumps(results, allow_nan=False)) == results


def test_numbers_are_those_of_the_cases(results):
    trained = results["policies"]["trained"]
    assert trained["cases"] == 12
    assert trained["ir"]["value"] == pytest.approx(0.1)
    assert trained["n_ir"]["value"] == pytest.approx(1 / (TURNS - 1))
    assert trained["r2"]["value"] == pytest.approx(1.0)
    first, last = trained["al"][0], trained["al"][-1]
    assert last["value"] - first["value"] == pytest.approx(0.1 * (TURNS - 1))
    assert first["low"] < first["value"] < first["high"]


def test_constant_policy_is_undefined_and_not_zero(results):
    base = results["policies"]["base"]
    assert base["ir"]["value"] == pytest.approx(0.0)
    assert base["n_ir"] == base["r2"] == {"value": None, "low": None, "high": None}


def test_pairs_cancel_the_case_effect(results):
    # Both policies have the same case effects: the difference has no spread at all.
    paired = results["paired"]
    assert list(paired) == ["trained"]
    difference = paired["trained"]["al_mean"]
    assert difference["low"] == pytest.approx(difference["high"])
    assert difference["value"] == pytest.approx(0.5 + 0.1 * (TURNS + 1) / 2)


def test_pairs_are_the_cases_that_both_finished():
    base, other = rising(2.0, 0.1, 10), rising(3.0, 0.1, 10)
    base["p0"] = base["p0"] - 100  # would move the difference, but its partner failed
    del other["p0"]
    results = benchmark_results({"base": base, "other": other}, "base", 100, 0.95, seed=0)
    assert results["policies"]["base"]["cases"] == 10
    assert results["policies"]["other"]["cases"] == 9
    assert results["paired"]["other"]["al_mean"]["value"] == pytest.approx(1.0)


def test_policies_without_a_common_case_are_not_compared():
    base, other = rising(2.0, 0.1, 4), rising(3.0, 0.1, 4)
    other = {f"q{persona}": scores for persona, scores in other.items()}
    results = benchmark_results({"base": base, "other": other}, "base", 100, 0.95, seed=0)
    assert results["paired"] == {}


def test_rows_are_grouped_by_policy_and_persona_in_order_of_turns():
    rows = [
        {"policy": policy, "persona_id": persona, "turn": turn, "score": turn + offset}
        for turn in (3, 1, 2)
        for policy, offset in (("a", 0.0), ("b", 1.0))
        for persona in ("p", "q")
    ]
    cases = cases_by_policy(pa.Table.from_pylist(rows, schema=SCORES))
    assert cases["a"]["q"].tolist() == [1.0, 2.0, 3.0]
    assert cases["b"]["p"].tolist() == [2.0, 3.0, 4.0]
    assert cases["b"]["p"].dtype == np.float64


def printed(results: dict) -> str:
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(evaluation_table(results))
    return console.export_text()


def test_table_shows_each_policy_then_its_distance_to_the_baseline(results):
    text = printed(results)
    assert "vs base" in text
    assert "undefined" in text and "nan" not in text.lower() and "None" not in text
    assert f"{results['policies']['trained']['al_mean']['value']:.2f}" in text
    low, high = (results["paired"]["trained"]["ir"][key] for key in ("low", "high"))
    assert f"[{low:.3f}, {high:.3f}]" in text
    assert "…" not in text


def test_table_shows_names_that_look_like_markup_as_they_are(results):
    results["policies"]["[red]x[/]"] = results["policies"].pop("base")
    assert "[red]x[/]" in printed(results)


def test_after_the_baseline_each_policy_is_compared_with_the_one_before_it():
    policies = {name: rising(2.0 + i, 0.1, 8) for i, name in enumerate(("base", "sft", "dpo"))}
    results = benchmark_results(policies, "base", samples=100, confidence=0.95, seed=1)
    assert list(results["paired"]) == ["sft", "dpo"]
    assert list(results["successive"]) == ["dpo"]
    assert results["successive"]["dpo"]["than"] == "sft"
    assert results["successive"]["dpo"]["al_mean"]["value"] == pytest.approx(1.0)
    console = Console(width=80, file=io.StringIO())
    console.print(evaluation_table(results))
    assert "vs sft" in console.file.getvalue()
