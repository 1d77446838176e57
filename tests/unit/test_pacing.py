"""When calls may begin, with times that are made up, and the desk that waits for it."""

from __future__ import annotations

import asyncio
import math
import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aloe.config import OpenAIModel
from aloe.engines.pacing import Pace, begun, earliest, ended, quiet
from aloe.engines.permits import Desk, Permits

EXPIRES = 50.0
STEPS = st.lists(
    st.tuples(st.sampled_from(["call", "end", "lose", "quiet"]), st.floats(0, 40)), max_size=60
)


@given(STEPS, st.integers(1, 4), st.none() | st.floats(0.5, 600), st.none() | st.floats(10, 1e5))
def test_no_limit_is_ever_passed(steps, most, requests, tokens):
    pace = Pace(most, EXPIRES, requests, tokens)
    now, number, hushed = 0.0, 0, -math.inf
    open_calls: dict[int, int] = {}
    begins: list[tuple[float, int]] = []
    for what, amount in steps:
        if what == "call":
            now = earliest(pace, now)
            assert now < math.inf
            size = int(amount * 10)
            pace = begun(pace, number, size, now)
            open_calls[number] = size
            begins.append((now, size))
            number += 1
            assert now >= hushed
            assert len(pace.inside) <= most
        elif what == "end" and open_calls:
            call, size = open_calls.popitem()
            pace = ended(pace, call, size, size)
            now += amount
        elif what == "lose" and open_calls:
            open_calls.popitem()  # nobody says that it has ended
        elif what == "quiet":
            hushed = max(hushed, now + amount)
            pace = quiet(pace, hushed)
    largest = max((size for _, size in begins), default=0)
    for start, _ in begins:
        within = [size for at, size in begins if start <= at < start + 60 - 1e-6]
        assert requests is None or len(within) <= max(1, math.ceil(requests))
        assert tokens is None or sum(within) <= tokens + largest + 1e-3


def test_calls_are_spaced_evenly_and_tokens_are_corrected():
    pace = Pace(most=9, expires_s=EXPIRES, requests_per_minute=60, tokens_per_minute=600)
    pace = begun(pace, 0, 50, 100.0)
    assert earliest(pace, 100.0) == 105.0
    pace = ended(pace, 0, 50, 20)
    assert earliest(pace, 100.0) == 102.0
    pace = ended(begun(pace, 1, 0, 102.0), 1, 0, 0)
    assert earliest(pace, 102.0) == 103.0


def test_whoever_is_gone_holds_no_place_for_ever():
    pace = begun(Pace(most=1, expires_s=EXPIRES), 0, 1, 10.0)
    assert earliest(pace, 20.0) == 60.0
    pace = begun(pace, 1, 1, 60.0)
    assert pace.inside.keys() == {1}
    assert earliest(ended(pace, 1, 1, 1), 61.0) == 61.0


def test_the_desk_lets_calls_begin_in_their_order():
    begins: list[tuple[float, int]] = []

    async def call(desk: Desk, number: int) -> None:
        taken = await desk.take(1)
        begins.append((time.monotonic(), number))
        await asyncio.sleep(0.01)
        await desk.give(taken, 1, 1)

    async def talk() -> None:
        desk = Desk(Pace(most=2, expires_s=9, requests_per_minute=1200))
        tasks = [asyncio.create_task(call(desk, number)) for number in range(8)]
        await asyncio.sleep(0.12)
        tasks.pop(5).cancel()  # one that waits gives up
        await asyncio.gather(*tasks)

    asyncio.run(talk())
    assert [number for _, number in begins] == [0, 1, 2, 3, 4, 6, 7]
    gaps = [later - earlier for (earlier, _), (later, _) in pairwise(begins)]
    assert min(gaps) > 0.04


def test_a_permit_ends_with_its_block():
    async def talk() -> float:
        model = OpenAIModel(backend="openai", model="m", max_concurrency=1)
        permits = Permits(model)
        for _ in range(3):
            with pytest.raises(ZeroDivisionError):
                async with permits.permit(5):
                    raise ZeroDivisionError
        await permits.hush(0.2)
        start = time.monotonic()
        async with permits.permit(5):
            return time.monotonic() - start

    assert 0.15 < asyncio.run(talk()) < 2
