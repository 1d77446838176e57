import asyncio

import pytest
from virtual_time import run_in_virtual_time

from aloe.config import Price, ScriptedModel
from aloe.engines import Completion, Request
from aloe.engines.base import Load
from aloe.engines.scripted import ScriptedEngine


def engine(**settings) -> ScriptedEngine:
    return ScriptedEngine("script", ScriptedModel(backend="scripted", **settings))


def alike(count: int) -> list[Request]:
    return [Request([{"role": "user", "content": "hello"}])] * count


def different(count: int) -> list[Request]:
    return [Request([{"role": "user", "content": "hello"}], seed=seed) for seed in range(count)]


def answers(requests: list[Request], **settings) -> tuple[list[Completion], float]:
    speaker = engine(**settings)

    async def all_of_them():
        return await asyncio.gather(*map(speaker.complete, requests))

    return run_in_virtual_time(all_of_them())


@pytest.mark.parametrize("calls", [1, 8, 64])
def test_throughput_follows_the_step_model(calls):
    made, seconds = answers(alike(calls), step_s=0.025, step_s_per_sequence=0.0005)
    words = sum(answer.completion_tokens for answer in made)
    assert words / seconds == pytest.approx(calls / (0.025 + 0.0005 * calls), rel=0.001)


@pytest.mark.parametrize(
    "settings", [{"latency_s": 2.0}, {"step_s": 0.02}, {"step_s_per_sequence": 0.02}]
)
def test_a_call_alone_takes_the_seconds_that_it_reports(settings):
    (answer,), seconds = answers(alike(1), **settings)
    assert answer.seconds > 0
    assert seconds == pytest.approx(answer.seconds, rel=0.001)


def test_what_a_call_reports_does_not_depend_on_the_others():
    settings = {"step_s": 0.02, "step_s_per_sequence": 0.005, "max_num_seqs": 4}
    together, _ = answers(different(12), **settings)
    assert together == [answers([request], **settings)[0][0] for request in different(12)]


def test_load_counts_calls_that_run_and_calls_that_wait():
    async def look():
        speaker = engine(step_s=0.01, max_num_seqs=4)
        calls = asyncio.gather(*map(speaker.complete, alike(6)))
        await asyncio.sleep(0)
        busy = speaker.load()
        await calls
        return busy, speaker.load()

    assert run_in_virtual_time(look())[0] == (Load(4, 2, 4), Load(0, 0, 4))


def test_no_time_passes_where_none_is_set():
    assert answers(different(3))[1] == 0


def test_words_cost_what_the_price_says():
    (free,), _ = answers(alike(1))
    (paid,), _ = answers(alike(1), price=Price(prompt=1e6, completion=2e6))
    assert free.cost_usd == 0
    assert paid.cost_usd == paid.prompt_tokens + 2 * paid.completion_tokens
