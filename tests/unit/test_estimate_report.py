"""An estimate as people and machines read it."""

from __future__ import annotations

import json

from rich.console import Console

from aloe.estimate import as_json, estimate_table, notes
from aloe.estimate.numbers import Range
from aloe.estimate.run import Estimate
from aloe.estimate.stages import StageEstimate
from aloe.storage import Usage


def estimate(**limits) -> Estimate:
    tree = StageEstimate(
        "dialogue",
        100,
        "trees",
        "probe",
        3,
        calls=Range(1800, 1700, 1900),
        prompt_tokens=Range(60_000, 50_000, 70_000),
        completion_tokens=Range(9_000, 8_000, 10_000),
        cost_usd=Range(12.5, 11, 14),
        hours=Range(2.0, 1.5, 4.0),
        unpriced=["local"],
    )
    free = StageEstimate("evaluation", 8, "cases", "run", 1, calls=Range(24, None, None))
    done = StageEstimate("personas", 0, "requests", "complete")
    spent, probe = Usage(1, 30_000, 0, 0, 1_000, 0.0, 1.0), Usage(1, 900, 0, 0, 100, 0.0, 0.25)
    known = {"max_tokens": None, "max_cost_usd": None} | limits
    return Estimate([done, tree, free], spent, probe, **known)


def test_machines_get_one_object_in_which_the_unknown_is_null():
    found = json.loads(json.dumps(as_json(estimate())))
    assert [stage["source"] for stage in found["stages"]] == ["complete", "probe", "run"]
    assert found["stages"][1]["cost_usd"] == {"value": 12.5, "low": 11, "high": 14}
    assert found["stages"][2]["cost_usd"] is None
    assert found["total"]["calls"] == {"value": 1824, "low": 1724, "high": 1924}
    assert found["probe"]["prompt_tokens"] == 900


def test_the_table_has_every_stage_and_their_sum():
    console = Console(width=120, record=True, file=None, quiet=False)
    with console.capture() as captured:
        console.print(estimate_table(estimate()))
    text = captured.get()
    for part in ("complete", "100 trees", "[50,000, 70,000]", "12.50", "?", "1,824"):
        assert part in text


def test_notes_say_what_was_resampled_what_is_free_and_which_limit_is_too_low():
    told = list(notes(estimate()))
    assert "dialogue: from 3 items of a probe; the range is 95% of resamples of them" in told
    assert "dialogue: without a price, counted as free: local" in told
    assert "the probe itself has taken 1,000 tokens, $0.25" in told
    assert not [line for line in told if "will stop" in line]
    low = list(notes(estimate(max_tokens=99_999, max_cost_usd=13.4)))
    assert any(line.startswith("run.max_tokens 99,999 will stop the run: 100,000") for line in low)
    assert any(line.startswith("run.max_cost_usd 13.4 will stop the run: $13.50") for line in low)
    assert not [
        line
        for line in notes(estimate(max_tokens=100_000, max_cost_usd=13.5))
        if "will stop" in line
    ]
