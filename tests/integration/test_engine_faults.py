"""A real vLLM engine whose core process is killed, or stopped, while it computes."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator

import pytest
from processes import children_titled

from aloe.config import VllmModel
from aloe.engines import Request
from aloe.engines.start import start_vllm
from aloe.engines.supervised import SupervisedEngine

MODEL = VllmModel(
    backend="vllm",
    path="embedded://tiny",
    max_model_len=512,
    max_num_seqs=4,
    stall_timeout_s=8,
)
REQUESTS = [
    Request([{"role": "user", "content": f"Story number {n}."}], max_tokens=400, seed=n)
    for n in range(8)
]


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="module")
def engine(runner) -> Iterator[SupervisedEngine]:
    async def start():
        return await asyncio.to_thread(start_vllm, "tiny", MODEL, False)

    engine = runner.run(start())
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def undisturbed(engine, runner) -> list[str]:
    async def all_of_them():
        return await asyncio.gather(*map(engine.complete, REQUESTS))

    return [answer.text for answer in runner.run(all_of_them())]


def core() -> int:
    """Process id of vLLM's engine core, the one child of ours that computes."""
    (found,) = children_titled("EngineCore")
    return found.pid


@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGSTOP])
def test_calls_in_flight_are_answered_by_the_next_engine(engine, runner, undisturbed, blow):
    before = engine.replaced

    async def strike():
        calls = [asyncio.create_task(engine.complete(request)) for request in REQUESTS]
        await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
        assert not all(call.done() for call in calls)
        os.kill(core(), blow)
        return await asyncio.gather(*calls)

    answers = runner.run(strike())
    assert [answer.text for answer in answers] == undisturbed
    assert engine.replaced == before + 1
