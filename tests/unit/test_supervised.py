import asyncio
import math

import pytest

from aloe.config import ScriptedModel
from aloe.engines import Request
from aloe.engines.scripted import ScriptedEngine
from aloe.engines.supervised import SupervisedEngine
from aloe.errors import EngineDied, EngineError, Poisoned

SCRIPT = ScriptedModel(backend="scripted")


class Mortal(ScriptedEngine):
    """Answers ``lives`` calls, then dies, or falls silent, for good."""

    def __init__(self, lives: float, silent: bool = False) -> None:
        super().__init__("mortal", SCRIPT)
        self.lives, self.silent, self.closed = lives, silent, False

    async def complete(self, request):
        await asyncio.sleep(0)
        self.lives -= 1
        if self.lives < 0:
            if self.silent:
                await asyncio.sleep(3600)
            raise EngineDied("mortal: out of lives")
        return await super().complete(request)

    def stalled_s(self) -> float:
        return 3600.0 if self.silent and self.lives < 0 else 0.0

    def close(self) -> None:
        self.closed = True


def supervised(*engines: Mortal) -> SupervisedEngine:
    row = iter(engines)
    return SupervisedEngine("mortal", lambda: next(row), stall_timeout_s=0.1)


def requests(count: int) -> list[Request]:
    return [Request([{"role": "user", "content": str(number)}]) for number in range(count)]


async def answers(engine, count):
    return await asyncio.gather(*map(engine.complete, requests(count)), return_exceptions=True)


@pytest.mark.parametrize("silent", [False, True])
def test_who_calls_sees_nothing_of_a_death(silent):
    async def look():
        first, second = Mortal(3, silent), Mortal(100)
        engine = supervised(first, second)
        return await answers(engine, 20), await answers(ScriptedEngine("mortal", SCRIPT), 20), first

    found, expected, first = asyncio.run(look())
    assert found == expected
    assert first.closed


def test_several_deaths_with_answers_in_between_are_survived():
    async def look():
        engine = supervised(*(Mortal(4) for _ in range(10)), Mortal(100))
        return [await engine.complete(request) for request in requests(30)], engine.replaced

    found, replaced = asyncio.run(look())
    assert len(found) == 30
    assert replaced == 7


def test_a_call_in_which_every_engine_dies_is_given_up():
    async def look():
        engine = supervised(*(Mortal(0) for _ in range(3)), Mortal(100))
        (error,) = await answers(engine, 1)
        return error, await engine.complete(requests(1)[0])

    error, answer = asyncio.run(look())
    assert isinstance(error, EngineError)
    assert "3 engines died during this call; the last: mortal: out of lives" in str(error)
    assert answer.text


class Allergic(Mortal):
    """Dies of one request, with all that are in flight."""

    def __init__(self) -> None:
        super().__init__(math.inf)
        self.dead = asyncio.Event()

    async def complete(self, request):
        if request.messages[0]["content"] in ("3", "11"):
            self.dead.set()
        for _ in range(20):
            await asyncio.sleep(0)
            if self.dead.is_set():
                raise EngineDied("allergic: core is gone")
        return await super().complete(request)


def test_poisoned_calls_cost_themselves_and_no_other():
    async def look():
        engine = SupervisedEngine("allergic", Allergic, stall_timeout_s=5)
        return await answers(engine, 20), engine.replaced

    found, replaced = asyncio.run(look())
    lost = [number for number, answer in enumerate(found) if isinstance(answer, Exception)]
    assert lost == [3, 11]
    assert all("3 engines died during this call" in str(found[number]) for number in lost)
    assert replaced == 4  # two that nobody could explain, and one for each that was alone


def test_engines_that_only_ever_die_end_the_stage():
    async def look(calls):
        return await answers(supervised(*(Mortal(0) for _ in range(20))), calls)

    few, many = asyncio.run(look(2)), asyncio.run(look(20))
    assert all(isinstance(error, EngineError) for error in few)
    assert {type(error) for error in many} == {Poisoned, EngineDied}
    assert any("5 engines in a row died" in str(error) for error in many)
