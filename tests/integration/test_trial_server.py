"""Every habit of the trial server: a rollout of 16 trees, and what it comes to.

All trees are kept with the words that the server meant; or the world's fault is told, with nothing
lost, and the rest is done when the server is well.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tenacity import wait_random_exponential
from trial_server import AFTER, HABITS, MODEL, REPLY, TrialServer

from aloe.config import DialogueConfig, JudgeConfig, OpenAIModel, Sampling
from aloe.dialogue.tree import TreeSeed, grow_tree
from aloe.engines import Speakers
from aloe.errors import WorldFault
from aloe.roles import Persona

ROLES = ("user", "inducer", "guided", "unguided", "judge")
TREES, TURNS = 16, 2
NODES = 3 * TURNS
BREAKS = {"quota": False, "revoked": False, "gone": False, "dead": True}
BREAKS |= dict.fromkeys(("budget", "untold", "base-resp", "retired"), False)
"""Modes that break in mid-run, and whether they may pass by themselves."""
NEVER = {"unknown-model", "wrong-key", "always-html", "never-json"}
"""Modes in which nothing can be rolled out: a probe finds them, see test_probe."""
VOTES = {"no-logprobs", "logprobs-refused", "stubborn-judge", "strict"}
VOTES |= {"logprobs-403", "tail-judge"}

Rows = list[dict[str, Any]]


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    """A server that says that it is busy is asked again soon: there is nobody else."""
    pauses = wait_random_exponential(multiplier=0.02, max=1)
    monkeypatch.setattr("aloe.engines.openai._JITTER", pauses)


def model_at(server: TrialServer, **settings: Any) -> OpenAIModel:
    return OpenAIModel(
        backend="openai", model=MODEL, base_url=server.url, max_concurrency=8, **settings
    )


async def roll_out(
    server: TrialServer, kept: dict[str, Rows], **settings: Any
) -> list[Rows | BaseException]:
    """16 trees at once, each from what is kept of it, as an actor of a run has them."""
    speakers = Speakers({"m": model_at(server, **settings)}, judge=JudgeConfig(votes=4))
    engines = await speakers.of_roles(dict.fromkeys(ROLES, "m"))
    config = DialogueConfig(turns=TURNS, tries=5, sampling=Sampling(max_tokens=60))

    async def grow(number: int) -> Rows:
        name = f"t{number}"
        start = TreeSeed(name, Persona(name, "Keeps bees.", "Dry."), "train", 0, "f")

        async def keep(rows: Rows) -> None:
            kept[name] = rows

        tree = await grow_tree(start, engines, config, kept.get(name, []), keep)
        assert not tree.ends
        return tree.rows

    return await asyncio.gather(*map(grow, range(TREES)), return_exceptions=True)


def assert_meant(trees: list[Rows | BaseException]) -> None:
    for rows in trees:
        assert isinstance(rows, list), rows
        assert len(rows) == NODES
        for row in rows:
            assert REPLY.split(".")[0] in row["text"]
            assert "think" not in row["text"]
            assert row["role"] != "user" or row["induced_profile"] == "keeps bees"
            row["text"].encode()


@pytest.mark.parametrize("mode", sorted(HABITS.keys() - BREAKS.keys() - NEVER))
def test_all_trees_are_kept_with_what_the_server_meant(mode):
    with TrialServer(mode).running() as server:
        trees = asyncio.run(roll_out(server, {}))
    assert_meant(trees)
    ends = {call["finish_reason"] for tree in trees for row in tree for call in row["calls"]}
    assert any(end.startswith("votes:") for end in ends) == (mode in VOTES)
    # 5 calls with one token each per turn, and what the habit costs.
    assert server.count < 3 * TREES * TURNS * 6 + 4 * 4 * TREES * TURNS


@pytest.mark.parametrize("mode", sorted(BREAKS))
def test_nothing_is_lost_when_the_world_fails(mode):
    kept: dict[str, Rows] = {}
    with TrialServer(mode).running() as server:
        trees = asyncio.run(roll_out(server, kept, deadline_s=2))
        faults = [found for found in trees if not isinstance(found, list)]
        assert faults
        for fault in faults:
            assert isinstance(fault, WorldFault), fault
            assert fault.passes is BREAKS[mode]
            assert "\n" not in str(fault)
        assert server.count > AFTER
        server.mode = "ok"
        before = dict(kept)
        assert_meant(asyncio.run(roll_out(server, kept)))
    for name, rows in before.items():
        assert kept[name][: len(rows)] == rows


def test_a_proxy_variable_does_not_lead_astray(monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with TrialServer("ok").running() as server:
        assert_meant(asyncio.run(roll_out(server, {})))


def test_headers_and_parameters_of_the_configuration_are_sent(monkeypatch):
    monkeypatch.setenv("TRIAL_TENANT", "secret")
    settings = {
        "params": {"temperature": 1, "seed": "omit"},
        "extra_body": {"provider": "x"},
        "extra_headers": {"x-tenant": "$TRIAL_TENANT"},
    }
    with TrialServer("ok").running() as server:
        assert "secret" not in model_at(server, **settings).model_dump_json()
        assert_meant(asyncio.run(roll_out(server, {}, **settings)))
    for body in server.bodies:
        assert (body["temperature"], body["provider"]) == (1, "x")
        assert "seed" not in body


def test_requests_are_spaced_as_configured():
    with TrialServer("ok").running() as server:
        asyncio.run(roll_out(server, {}, requests_per_minute=60 * 60))
        assert len(server.times) == server.count
        spaced = [
            later - first for first, later in zip(server.times, server.times[59:], strict=False)
        ]
    # 60 requests in a second: 59 gaps of 1/60 s, but for what the network takes.
    assert min(spaced) > 0.9
