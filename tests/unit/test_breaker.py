import asyncio
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aloe.engines import breaker
from aloe.engines.patience import Patience
from aloe.errors import EngineError, Unanswerable, WorldFault

EVENTS = st.lists(
    st.tuples(
        st.floats(0, 40),
        st.sampled_from(["step", "answered", "refused", "probe fails", "probe lost", "for good"]),
    ),
    max_size=60,
)


@given(patience=st.floats(0, 200), events=EVENTS)
def test_whatever_happens_one_probe_at_a_time_and_a_stop_is_for_good(patience, events):
    state, now, probes = breaker.begin(patience), 0.0, 0
    for pause, event in events:
        now += pause
        before = state
        match event:
            case "step":
                step = breaker.step(state, now)
                if step.do == "ask":
                    assert state.since is None
                if step.do == "wait":
                    assert 0 < step.wait_s <= patience * (1 + 1e-9)
                if step.do == "stop" and not state.stopped:
                    assert now >= state.since + patience
                if step.do == "probe":
                    assert probes == 0
                    assert state.since is not None
                    state, probes = breaker.probe(state), 1
            case "answered":
                state, probes = breaker.answered(state), 0
                assert state.stopped or state.since is None
            case "refused":
                state = breaker.refused(state, "down", True, now)
            case "probe fails" if probes:
                state, probes = breaker.refused(state, "down", True, now, probe=True), 0
                assert state.stopped or state.probe_at > now
            case "probe lost" if probes:
                state, probes = breaker.unprobed(state, now), 0
            case "for good":
                state, probes = breaker.refused(state, "quota", False, now), 0
                assert state.stopped
        assert not before.stopped or state == before
        assert not (state.stopped and state.probing)


def hear(patience_s, script):
    """Let 8 calls run against a world; ``script(number)`` raises or answers."""
    asked, told = [], []

    async def look():
        patience = Patience(patience_s, told.append)

        async def work():
            asked.append(0)
            number = len(asked)
            await asyncio.sleep(0)  # all are on their way before the first is refused
            return script(number)

        done = await asyncio.gather(
            *(patience.call(work) for _ in range(8)), return_exceptions=True
        )
        return done, patience.stopped

    done, stopped = asyncio.run(look())
    return done, stopped, asked, told


def test_what_passes_is_waited_for_with_single_calls():
    def script(number):
        if number <= 9:  # all eight, then the first probe
            raise WorldFault("m: nobody answers", passes=True)
        return "hello"

    done, stopped, asked, told = hear(60, script)
    assert done == ["hello"] * 8
    assert stopped is None
    assert len(asked) == 8 + 1 + 8
    assert told == [
        "m: nobody answers; waiting for it up to 60 s",
        "m: nobody answers: over, going on",
    ]


@pytest.mark.parametrize(("patience_s", "passes"), [(60, False), (0, True), (1.5, True)])
def test_what_does_not_pass_ends_all_calls_and_is_not_asked_again(patience_s, passes):
    def script(number):
        raise WorldFault("m: quota spent", passes)

    done, stopped, asked, _ = hear(patience_s, script)
    assert all(isinstance(error, WorldFault) for error in done)
    assert stopped == "m: quota spent"
    assert len(asked) <= 8 + 1


def test_an_item_that_alone_is_refused_fails_alone():
    async def look():
        patience, over = Patience(0.5, lambda text: None), asyncio.Event()

        async def cursed():
            raise WorldFault("m: 503", passes=True)

        async def others():
            while not over.is_set():
                await patience.call(lambda: asyncio.sleep(0.4))

        busy = [asyncio.create_task(others()) for _ in range(4)]
        await asyncio.sleep(0.2)
        try:
            await patience.call(cursed)
        finally:
            over.set()
            await asyncio.gather(*busy)

    with pytest.raises(EngineError, match="503; others are answered meanwhile"):
        asyncio.run(look())


def test_an_error_of_an_item_shows_that_the_server_is_there():
    async def look():
        patience, asked = Patience(60, lambda text: None), []

        async def work():
            asked.append(0)
            if len(asked) == 1:
                raise WorldFault("m: 503", passes=True)
            raise EngineError("m: 400")

        with pytest.raises(EngineError):
            await patience.call(work)
        return patience.stopped

    assert asyncio.run(look()) is None


@pytest.fixture
def soon(monkeypatch):
    """An outage after a moment."""
    monkeypatch.setattr("aloe.engines.patience._TOLERATED_S", 0.1)


@pytest.mark.usefixtures("soon")
def test_calls_that_go_on_end_with_patience_and_are_said_to_wait():
    told = []

    async def look():
        patience = Patience(0.8, told.append)

        async def going_on():
            while True:  # an engine that tries again by itself, for longer than patience lasts
                await asyncio.sleep(0.05)
                patience.trouble("m: 503")

        began = time.monotonic()
        calls = [patience.call(going_on) for _ in range(3)]
        done = await asyncio.gather(*calls, return_exceptions=True)
        return done, time.monotonic() - began

    done, lasted = asyncio.run(look())
    assert {type(error) for error in done} == {WorldFault}
    assert 0.8 <= lasted < 2
    assert told == ["m: 503; waiting for it up to 0.8 s"]


@pytest.mark.usefixtures("soon")
def test_attempts_that_fail_while_others_are_answered_are_no_outage():
    told = []

    async def look():
        patience = Patience(0.4, told.append)

        async def going_on():
            for _ in range(20):
                await asyncio.sleep(0.05)
                patience.trouble("m: 503")
            return "at last"

        async def others():
            for _ in range(40):
                await patience.call(lambda: asyncio.sleep(0.025))

        return await asyncio.gather(patience.call(going_on), others())

    assert asyncio.run(look())[0] == "at last"
    assert told == []


def test_what_cannot_pass_lets_calls_that_go_on_come_to_their_end():
    async def look():
        patience = Patience(60, lambda text: None)

        async def spent():
            raise WorldFault("m: quota spent", passes=False)

        async def answered():
            await asyncio.sleep(0.2)
            return "paid for"

        return await asyncio.gather(
            patience.call(answered), patience.call(spent), return_exceptions=True
        )

    done = asyncio.run(look())
    assert done[0] == "paid for"
    assert isinstance(done[1], WorldFault)


def alone(patience_s, canary, tries_itself=False):
    """One call that is refused for ever, where nobody else asks."""
    asked, stopped = [], []

    async def look():
        patience = Patience(patience_s, lambda text: None)

        async def there():
            asked.append(0)
            if isinstance(canary, Exception):
                raise canary

        patience.canary = there

        async def cursed():
            while tries_itself:
                await asyncio.sleep(0.05)
                patience.trouble("m: 500")
            await asyncio.sleep(0.05)
            raise WorldFault("m: 500", passes=True)

        try:
            await patience.call(cursed)
        finally:
            stopped.append(patience.stopped)

    began = time.monotonic()
    with pytest.raises((WorldFault, EngineError)) as ended:
        asyncio.run(asyncio.wait_for(look(), 20))
    return ended.value, stopped[0], len(asked), time.monotonic() - began


@pytest.mark.parametrize("canary", [None, EngineError("m: 400")], ids=["answered", "refused"])
def test_a_call_that_is_refused_while_a_canary_is_answered_fails_alone(canary):
    error, stopped, asked, lasted = alone(2.0, canary)
    assert isinstance(error, Unanswerable)
    assert stopped is None
    assert asked >= 1
    assert lasted < 6


def test_where_a_canary_is_refused_too_nobody_is_there():
    error, stopped, asked, lasted = alone(2.5, WorldFault("m: no route", passes=True))
    assert isinstance(error, WorldFault)
    assert stopped
    assert 1 <= asked <= 3
    assert 2.5 <= lasted < 5


@pytest.mark.usefixtures("soon")
def test_a_call_that_tries_itself_is_looked_after_by_a_canary():
    error, stopped, asked, lasted = alone(2.5, WorldFault("m: no route", passes=True), True)
    assert isinstance(error, WorldFault)
    assert stopped
    assert asked >= 1
    assert 2.5 <= lasted < 5


def test_who_asks_to_be_left_alone_is():
    state = breaker.refused(breaker.begin(60), "busy", True, now=0, after_s=20)
    assert breaker.step(state, 19).do == "wait"
    assert breaker.step(state, 21).do == "probe"
    assert breaker.refused(breaker.begin(60), "busy", True, now=0, after_s=3600).stopped
