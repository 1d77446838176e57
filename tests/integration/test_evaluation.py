"""The benchmark over real Ray Data actors, with scripted speakers."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pytest
from evaluation_runs import HELDOUT, make_config, make_run, moody_server, with_server

from aloe.config import Config
from aloe.errors import StageFailed, UserError
from aloe.evaluation import evaluate_policies
from aloe.schema import ERRORS, SCORES
from aloe.storage import Manifest, Store
from aloe.storage.manifest import load_manifest

ROOT = Path(__file__).parents[2]


pytestmark = pytest.mark.usefixtures("local_ray")


@pytest.fixture
def server():
    with moody_server() as silence:
        yield silence


def scores_of(store: Store) -> pa.Table:
    return store.read_table("evaluation/scores", SCORES)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Config, Store, Manifest]:
    """An evaluation of two equal policies that ran to its end."""
    folder = tmp_path_factory.mktemp("run")
    config, store = make_config(folder), make_run(folder)
    return config, store, evaluate_policies(config, store)


def test_every_policy_meets_every_heldout_persona(finished):
    _, store, manifest = finished
    rows = scores_of(store).to_pylist()
    met = {(row["policy"], row["persona_id"], row["turn"]) for row in rows}
    assert met == {
        (policy, f"p{number}", turn)
        for policy in ("base", "other")
        for number in range(HELDOUT)
        for turn in (1, 2, 3)
    }
    assert len(rows) == len(met)
    assert all(1 <= row["score"] <= 5 for row in rows)
    assert manifest.complete
    assert manifest.counts == {"cases": 2 * HELDOUT, "failed_cases": 0}
    assert manifest.usage.calls == 2 * HELDOUT * 3 * 3
    assert load_manifest(store, "evaluation") == manifest
    assert list(manifest.results["policies"]) == ["base", "other"]
    mean = sum(row["score"] for row in rows if row["policy"] == "base") / (HELDOUT * 3)
    assert manifest.results["policies"]["base"]["al_mean"]["value"] == pytest.approx(mean)


def test_equal_policies_differ_by_exactly_nothing(finished):
    # A script answers by request alone, so this fails if any seed depends on the policy.
    _, _, manifest = finished
    nothing = {"value": 0.0, "low": 0.0, "high": 0.0}
    assert manifest.results["paired"] == {"other": {"al_mean": nothing, "ir": nothing}}


def test_same_run_elsewhere_is_the_same_byte_for_byte(finished, tmp_path):
    _, store, manifest = finished
    elsewhere = make_run(tmp_path)
    assert evaluate_policies(make_config(tmp_path), elsewhere).results == manifest.results
    assert _files(elsewhere) == _files(store)


def test_complete_evaluation_is_not_done_again(finished):
    config, store, manifest = finished
    before = _times(store)
    assert evaluate_policies(config, store) == manifest
    assert _times(store) == before


def test_max_cases_draws_the_same_personas_for_all_policies(tmp_path):
    store = make_run(tmp_path)
    evaluate_policies(make_config(tmp_path, max_cases=2), store)
    met = {}
    for row in scores_of(store).to_pylist():
        met.setdefault(row["policy"], set()).add(row["persona_id"])
    assert met["base"] == met["other"]
    assert len(met["base"]) == 2


def test_killed_run_goes_on_with_what_is_missing(tmp_path):
    store = make_run(tmp_path, heldout=20)
    config = make_config(tmp_path, latency_s=0.15)
    script = tmp_path / "run.py"
    script.write_text(
        "import sys\n"
        "from aloe.config import Config\n"
        "from aloe.evaluation import evaluate_policies\n"
        "from aloe.storage import Store\n"
        "config = Config.model_validate_json(sys.argv[1])\n"
        "evaluate_policies(config, Store(config.run.dir))\n"
    )
    command = [sys.executable, str(script), config.model_dump_json()]
    driver = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)})
    deadline = time.monotonic() + 120
    while len(store.names("evaluation/scores")) < 4 and time.monotonic() < deadline:
        time.sleep(0.05)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    before = _times(store)
    assert 4 <= len(before) < 40
    manifest = evaluate_policies(config, store)
    assert manifest.counts == {"cases": 40, "failed_cases": 0}
    after = _times(store)
    assert len(after) == 40
    assert {name: after[name] for name in before} == before


def test_few_failures_become_rows_and_leave_their_pair_out(tmp_path, server):
    store = make_run(tmp_path)
    config = make_config(tmp_path, policies={"base": "model:script", "other": "model:server"})
    manifest = evaluate_policies(with_server(config, server(1)), store)
    assert manifest.counts == {"cases": 2 * HELDOUT - 1, "failed_cases": 1}
    assert manifest.results["policies"]["base"]["cases"] == HELDOUT
    assert manifest.results["policies"]["other"]["cases"] == HELDOUT - 1
    (error,) = store.read_table("evaluation/errors", ERRORS).to_pylist()
    assert (error["role"], error["kind"], error["turn"]) == ("policy", "MalformedAnswer", 1)
    assert [call["tries"] for call in error["calls"]] == [1, 3]
    scores = scores_of(store).to_pylist()
    met = {row["persona_id"] for row in scores if row["policy"] == "other"}
    base = [row for row in scores if row["policy"] == "base" and row["persona_id"] in met]
    other = [row for row in scores if row["policy"] == "other"]
    difference = sum(
        a["score"] - b["score"] for a, b in zip(_sorted(other), _sorted(base), strict=True)
    )
    paired = manifest.results["paired"]["other"]["al_mean"]
    assert paired["value"] == pytest.approx(difference / len(base))
    assert paired["low"] < paired["value"] < paired["high"]


def test_too_many_failures_end_the_stage_incomplete_until_tried_again(tmp_path, server):
    store = make_run(tmp_path)
    config = make_config(tmp_path, policies={"base": "model:script", "other": "model:server"})
    config = with_server(config, server(3))
    for _ in range(2):  # the second time nothing is asked again
        with pytest.raises(StageFailed, match=r"3 of 12 benchmark cases failed, see .*errors"):
            evaluate_policies(config, store)
    paused = load_manifest(store, "evaluation")
    assert paused is not None and not paused.complete and paused.wall_seconds > 0
    store.fs.rm(store.path("evaluation/errors"), recursive=True)
    server(0)
    assert evaluate_policies(config, store).counts == {"cases": 12, "failed_cases": 0}


def test_missing_heldout_personas_are_named(tmp_path):
    store = make_run(tmp_path, heldout=0)
    with pytest.raises(UserError, match=r"personas\.parquet: no persona with split 'benchmark'"):
        evaluate_policies(make_config(tmp_path), store)


def test_policy_that_was_not_trained_is_named(tmp_path):
    config = make_config(tmp_path, policies={"base": "model:script", "sft": "sft"})
    with pytest.raises(UserError, match="training/sft: not complete"):
        evaluate_policies(config, make_run(tmp_path))


def _files(store: Store) -> dict[str, bytes]:
    names = store.names("evaluation/scores")
    return {name: store.fs.cat_file(store.path("evaluation/scores", name)) for name in names}


def _times(store: Store) -> dict[str, int]:
    """When each case's scores were written, in nanoseconds."""
    names = store.names("evaluation/scores")
    return {n: Path(store.path("evaluation/scores", n)).stat().st_mtime_ns for n in names}


def _sorted(rows: list[dict]) -> list[dict]:
    return sorted(rows, key=lambda row: (row["persona_id"], row["turn"]))
