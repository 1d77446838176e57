import asyncio
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from aloe.engines.backoff import begin
from aloe.engines.gate import Gate


async def settle() -> None:
    """Let every task run until it waits."""
    for _ in range(5):
        await asyncio.sleep(0)


class Calls:
    """Calls that stay in the gate until they are told to leave."""

    def __init__(self, limit: int) -> None:
        self.gate = Gate(begin(limit))
        self.entered: list[int] = []
        self.tasks: dict[int, asyncio.Task[None]] = {}
        self.exits: dict[int, asyncio.Event] = {}

    async def start(self, *numbers: int) -> None:
        for number in numbers:
            self.exits[number] = asyncio.Event()
            self.tasks[number] = asyncio.create_task(self._stay(number))
        await settle()

    async def leave(self, number: int) -> None:
        self.exits[number].set()
        await settle()

    async def _stay(self, number: int) -> None:
        async with self.gate.slot(number):
            self.entered.append(number)
            await self.exits[number].wait()


def test_the_lowest_number_enters_first():
    async def look():
        calls = Calls(1)
        await calls.start(5, 3, 9, 1)
        for number in (5, 1, 3, 9):
            await calls.leave(number)
        return calls.entered

    assert asyncio.run(look()) == [5, 1, 3, 9]


def test_a_higher_limit_lets_more_in_and_a_lower_one_waits_for_calls_to_leave():
    async def look():
        calls = Calls(1)
        await calls.start(*range(10))
        counts = [calls.gate.inside]
        for limit, leaving in ((4, 0), (2, 1), (2, 2), (2, 3)):
            calls.gate.bound = replace(calls.gate.bound, limit=limit)
            await calls.leave(leaving)
            counts.append(calls.gate.inside)
        counts.append(calls.gate.waiting)
        for number in range(10):
            await calls.leave(number)
        return counts, calls.gate.inside, len(calls.entered)

    assert asyncio.run(look()) == ([1, 4, 3, 2, 2, 4], 0, 10)


@given(
    limit=st.integers(1, 4),
    ends=st.lists(st.tuples(st.integers(0, 11), st.booleans()), max_size=30),
)
@settings(deadline=None)
def test_calls_that_are_cancelled_leave_no_slot_behind(limit, ends):
    async def look():
        calls = Calls(limit)
        await calls.start(*range(12))
        for number, cancelled in ends:
            if cancelled:
                calls.tasks[number].cancel()
                await settle()
            else:
                await calls.leave(number)
            open_calls = sum(not task.done() for task in calls.tasks.values())
            assert calls.gate.inside <= limit
            assert calls.gate.inside + calls.gate.waiting == open_calls
            assert calls.gate.inside == min(limit, open_calls)
        for number in range(12):
            await calls.leave(number)
        await asyncio.gather(*calls.tasks.values(), return_exceptions=True)
        return calls.gate.inside, calls.gate.waiting

    assert asyncio.run(look()) == (0, 0)


def test_a_call_cancelled_at_the_moment_it_is_let_in_gives_its_slot_on():
    async def look():
        calls = Calls(1)
        await calls.start(0, 1, 2)
        calls.exits[0].set()
        await asyncio.sleep(0)  # call 0 has left and let 1 in, which has not run yet
        calls.tasks[1].cancel()
        await settle()
        return calls.entered

    assert asyncio.run(look()) == [0, 2]
