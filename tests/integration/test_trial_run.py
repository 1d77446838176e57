"""Stages of a run on a server that takes next to nothing: probed, rolled out, and recorded."""

from __future__ import annotations

import json

import pytest
from trial_server import TrialServer, refused

from aloe.config_file import load_config
from aloe.pipeline import run_one
from aloe.storage import run_store

pytestmark = pytest.mark.usefixtures("local_ray")


def test_what_a_server_did_not_honour_is_in_the_manifest(scripted_config):
    with TrialServer("strict").running() as server:
        model = f"{{backend: openai, model: trial, base_url: '{server.url}'}}"
        speaking = ("user", "inducer", "guided", "unguided", "judge")
        roles = [word for role in speaking for word in (f"--roles.{role}", "trial")]
        options = ["--models.trial", model, "--judge.votes", "3", "--dialogue.turns", "2"]
        config = load_config(str(scripted_config), [*options, *roles])
        run_one(config, "personas")
        assert server.count == 0
        manifest = run_one(config, "dialogue")
    trees = manifest.counts["trees"]
    assert trees > 0
    assert manifest.counts["failed_trees"] == 0
    # All votes are for the first place: every comparison is a tie, and no two orders agree.
    assert manifest.counts["ties"] == manifest.counts["comparisons"] == 2 * trees
    assert manifest.results["comparisons_by_votes"] == 2 * trees
    assert manifest.results["vote_variance"] == 0
    assert manifest.results["judge_agreement"] == 0
    assert manifest.results["sampler_not_honoured"] == {"trial": ["seed", "temperature"]}
    assert manifest.settings["judge"]["votes"] == 3
    [probed] = json.loads(run_store(config).read_text("probe.json"))
    assert (probed["choices"], probed["schema"]) == ("votes", "parsed text")
    # What the probe has learned, actors know: none of them is refused it again.
    assert any(refused("strict", 0, body) for body in server.bodies[: probed["requests"]])
    assert not any(refused("strict", 0, body) for body in server.bodies[probed["requests"] :])
