import asyncio

import pytest
from virtual_time import run_in_virtual_time

from aloe.engines.stepping import StepClock


def seconds(calls: int, steps: int, clock: StepClock) -> float:
    async def all_of_them():
        await asyncio.gather(*(clock.take(steps) for _ in range(calls)))

    return run_in_virtual_time(all_of_them())[1]


@pytest.mark.parametrize("calls", [1, 8, 64])
def test_calls_take_their_steps_together(calls):
    expected = 20 * (0.01 + 0.0002 * calls)
    assert seconds(calls, 20, StepClock(0.01, 0.0002, 64)) == pytest.approx(expected, rel=1e-3)


def test_what_does_not_fit_waits():
    assert seconds(12, 10, StepClock(0.01, 0, 4)) == pytest.approx(0.3, rel=1e-3)


def test_a_late_call_ends_late():
    async def look():
        clock = StepClock(1, 0, 2)
        first = asyncio.create_task(clock.take(10))
        await asyncio.sleep(3)
        late = asyncio.create_task(clock.take(10))
        await first
        assert (clock.running, clock.waiting) == (1, 0)
        await late

    assert run_in_virtual_time(look())[1] == pytest.approx(13)


@pytest.mark.parametrize("running", [True, False], ids=["running", "waiting"])
def test_a_cancelled_call_gives_up_its_place(running):
    async def look():
        clock = StepClock(1, 0, 1)
        first = asyncio.create_task(clock.take(1000 if running else 5))
        await asyncio.sleep(0)
        second = asyncio.create_task(clock.take(5 if running else 1000))
        await asyncio.sleep(2)
        (first if running else second).cancel()
        await asyncio.sleep(0)
        assert (clock.running, clock.waiting) == (1, 0)
        await (second if running else first)
        assert (clock.running, clock.waiting) == (0, 0)

    assert run_in_virtual_time(look())[1] == pytest.approx(7 if running else 5)
