import random
import statistics
from collections import OrderedDict, deque
from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aloe.engines.admission import Admission, begin, judge, observe
from aloe.engines.base import Load

loads = st.builds(
    Load,
    running=st.integers(0, 300),
    waiting=st.integers(0, 300),
    capacity=st.integers(1, 256),
    kv_usage=st.floats(0, 1),
    preemptions=st.integers(0, 50),
    reusable_tokens=st.integers(0, 10**6),
    cached_tokens=st.integers(0, 10**6),
)


engines = st.lists(loads, min_size=1, max_size=4)


@given(engines, st.integers(1, 500), st.lists(st.tuples(engines, st.integers(0, 600)), max_size=30))
def test_the_limit_keeps_its_bounds(first, most, seen):
    state = begin(first, most)
    for every, open_now in seen:
        state = observe(state, every, open_now)
        assert 1 <= state.limit <= most


@given(
    st.lists(st.tuples(loads, loads), min_size=1, max_size=4),
    st.integers(1, 400),
    st.integers(0, 600),
    st.booleans(),
)
def test_one_step_keeps_its_promises(pairs, limit, open_now, careful):
    before, now = (tuple(part) for part in zip(*pairs, strict=True))
    state = Admission(limit, 400, before, careful)
    after = observe(state, now, open_now)
    full = any(
        load.waiting or load.running >= load.capacity or load.kv_usage > 0.85 for load in now
    )
    if full or open_now < limit:
        assert after.limit <= limit
    preempted = any(load.preemptions > then.preemptions for then, load in pairs)
    if preempted or judge(state, now) == "thrash":
        assert after.limit <= max(0.75 * open_now, 1)
        assert after.careful


ROOM = Load(running=10, waiting=0, capacity=64)


def state_of(limit, most=100, careful=False):
    return Admission(limit, most, (ROOM,), careful)


def test_it_grows_while_there_is_room_and_the_limit_is_reached():
    state = state_of(16)
    assert observe(state, [ROOM], 16).limit == 20
    assert observe(state, [ROOM], 15).limit == 16
    assert observe(replace(state, most=18), [ROOM], 16).limit == 18


@pytest.mark.parametrize("full", [{"waiting": 1}, {"running": 64}, {"kv_usage": 0.9}])
def test_nobody_is_admitted_to_a_full_engine(full):
    assert observe(state_of(16), [replace(ROOM, **full)], 16).limit == 16


def test_preemptions_cut_what_is_open_once():
    state = observe(state_of(40), [replace(ROOM, preemptions=3)], 20)
    assert state.limit == 15
    assert observe(state, [replace(ROOM, preemptions=3, waiting=1)], 15).limit == 15


def test_lost_prefixes_cut_once_enough_tokens_tell():
    state = state_of(40)
    little = replace(ROOM, reusable_tokens=1000, cached_tokens=0)
    assert observe(state, [little], 30).limit == 40
    much = replace(ROOM, reusable_tokens=5000, cached_tokens=2000)
    cut = observe(observe(state, [little], 30), [much], 40)
    assert cut.limit == 30
    more = replace(much, reusable_tokens=9000, cached_tokens=6000)
    assert observe(cut, [more], 20).limit == 30


def test_those_who_leave_late_are_not_cut_for_twice():
    state = state_of(128, 500)
    for preemptions in range(1, 20):
        state = observe(state, [replace(ROOM, preemptions=preemptions)], 128)
    assert state.limit == 96


def test_after_a_cut_it_grows_a_little_with_each_look():
    state = observe(state_of(64), [replace(ROOM, preemptions=1)], 64)
    assert state.limit == 48
    fits = replace(ROOM, preemptions=1, reusable_tokens=48_000, cached_tokens=48_000)
    assert observe(state, [fits], 48).limit == 48
    more = replace(fits, reusable_tokens=50_000, cached_tokens=50_000)
    grown = observe(observe(state, [fits], 48), [more], 48)
    assert grown.limit == 51
    assert observe(grown, [more], 51).limit == 51


def test_without_a_prefix_cache_it_grows_again_too():
    state = observe(state_of(1), [replace(ROOM, preemptions=1)], 1)
    for _ in range(1000):
        state = observe(state, [replace(ROOM, preemptions=1)], state.limit)
    assert 1 < state.limit < 10


BUSY = Load(64, 3, 64)
LOST = replace(ROOM, reusable_tokens=5000)


@pytest.mark.parametrize(
    "other, verdict", [(ROOM, "room"), (BUSY, "full"), (LOST, "thrash")], ids=lambda v: str(v)[:6]
)
@pytest.mark.parametrize("swapped", [False, True])
def test_one_engine_without_room_is_enough(other, verdict, swapped):
    healthy = replace(ROOM, reusable_tokens=10**6, cached_tokens=10**6)
    now = [other, healthy][:: -1 if swapped else 1]
    assert judge(Admission(8, 100, (ROOM, ROOM)), now) == verdict


def test_an_engine_with_few_prompts_is_looked_at_when_it_has_had_enough():
    state = Admission(40, 100, (ROOM, ROOM))
    for step in range(1, 12):
        much = replace(ROOM, reusable_tokens=5000 * step, cached_tokens=5000 * step)
        state = observe(state, [much, replace(ROOM, reusable_tokens=200 * step)], 40)
    assert state.limit == 30


def test_a_replaced_engine_is_counted_from_zero():
    full = replace(ROOM, reusable_tokens=10**6, cached_tokens=10**6)
    state = observe(Admission(40, 100, (full,)), [replace(ROOM, reusable_tokens=3000)], 40)
    assert state.limit == 30


def test_the_smallest_engine_sets_where_it_begins():
    assert begin([Load(0, 0, 64), Load(0, 0, 8)], 100).limit == 4
    assert begin([Load(0, 0, 1)], 100).limit == 1
    assert begin([Load(0, 0, 64)], 10).limit == 10
    with pytest.raises(ValueError, match="empty"):
        begin([], 100)


@dataclass
class Call:
    conversation: int
    answer_tokens: int
    done: int = 0
    preempted: bool = False


class Machine:
    """An engine under conversations, in steps of one token per running call.

    A conversation has 1 or 2 calls in flight per turn; each turn makes its history longer, and it
    stays until its last turn. Histories of conversations without a running call are an LRU cache
    in what running calls leave of the KV cache.
    """

    TURNS, SYSTEM, PER_TURN = 8, 160, 120
    MEAN_HISTORY = SYSTEM + PER_TURN * (TURNS - 1) / 2

    def __init__(self, capacity: int, kv_tokens: int, seed: int = 0) -> None:
        self.capacity, self.kv_tokens = capacity, kv_tokens
        self.turns: dict[int, int] = {}
        """Open conversation -> turns it has had."""
        self.finished = 0
        self._random = random.Random(seed)
        self._queue: deque[Call] = deque()
        self._running: list[Call] = []
        self._unanswered: dict[int, int] = {}
        self._cache: OrderedDict[int, int] = OrderedDict()
        self._preemptions = self._reusable = self._cached = 0

    def admit(self, limit: int) -> None:
        while len(self.turns) < limit:
            name = self.finished + len(self.turns)
            self.turns[name] = 0
            self._ask(name)

    def step(self) -> None:
        while self._queue and len(self._running) < self.capacity:
            call = self._queue[0]
            if self._held() + self._history(call.conversation) > self.kv_tokens:
                break
            self._begin(self._queue.popleft())
        while len(self._running) > 1 and self._held() + len(self._running) > self.kv_tokens:
            self._preempt()
        for call in self._running:
            call.done += 1
        ended = [call for call in self._running if call.done >= call.answer_tokens]
        self._running = [call for call in self._running if call.done < call.answer_tokens]
        for call in ended:
            self._answered(call.conversation)
        self._evict()

    def burst(self, calls: int) -> None:
        """Something else takes the memory of that many running calls, once."""
        for _ in range(min(calls, len(self._running))):
            self._preempt()

    def load(self) -> Load:
        return Load(
            len(self._running),
            len(self._queue),
            self.capacity,
            min(self._held() / self.kv_tokens, 1.0),
            self._preemptions,
            self._reusable,
            self._cached,
        )

    def _history(self, name: int) -> int:
        return self.SYSTEM + self.turns[name] * self.PER_TURN

    def _ask(self, name: int) -> None:
        self._unanswered[name] = self._random.choice((1, 2))
        for _ in range(self._unanswered[name]):
            self._queue.append(Call(name, self._random.randrange(30, 50)))

    def _begin(self, call: Call) -> None:
        name = call.conversation
        if not call.preempted:
            reusable = self._history(name) - self.PER_TURN if self.turns[name] else 0
            self._reusable += reusable
            self._cached += min(reusable, self._cache.get(name, 0))
        self._cache[name] = self._history(name)
        self._cache.move_to_end(name)
        self._running.append(call)
        self._evict()

    def _preempt(self) -> None:
        call = self._running.pop()
        self._queue.appendleft(replace(call, done=0, preempted=True))
        self._preemptions += 1

    def _answered(self, name: int) -> None:
        self._unanswered[name] -= 1
        if self._unanswered[name]:
            return
        self.turns[name] += 1
        if self.turns[name] < self.TURNS:
            self._ask(name)
        else:
            del self.turns[name], self._unanswered[name]
            self.finished += 1

    def _held(self) -> int:
        busy = {call.conversation for call in self._running}
        return sum(map(self._history, busy)) + sum(call.done for call in self._running)

    def _evict(self) -> None:
        busy = {call.conversation for call in self._running}
        idle = [name for name in self._cache if name not in busy]
        kept = sum(self._cache[name] for name in idle)
        room = self.kv_tokens - self._held()
        for name in idle:
            if kept <= room:
                break
            kept -= self._cache.pop(name)


@dataclass(frozen=True)
class Seen:
    limit: int
    open: int
    load: Load


def run(machine: Machine, observations: int, burst_at: int | None = None) -> list[Seen]:
    """What each observation saw; one is made every 20 steps, half a call."""
    state, seen = begin([machine.load()], most=1000), []
    for number in range(observations):
        for _ in range(20):
            machine.admit(state.limit)
            machine.step()
        if number == burst_at:
            machine.burst(10)
        load = machine.load()
        state = observe(state, [load], len(machine.turns))
        seen.append(Seen(state.limit, len(machine.turns), load))
    return seen


def lost(seen: list[Seen]) -> float:
    """Share of the reusable tokens that was computed again."""
    first, last = seen[0].load, seen[-1].load
    cached = last.cached_tokens - first.cached_tokens
    return 1 - cached / (last.reusable_tokens - first.reusable_tokens)


seeds = pytest.mark.parametrize("seed", range(3))


@seeds
def test_with_enough_memory_the_engine_is_filled_and_no_more(seed):
    machine = Machine(capacity=64, kv_tokens=10**6, seed=seed)
    seen = run(machine, 80)
    settled = seen[24:]
    assert statistics.mean(at.load.running for at in settled) >= 0.9 * 64
    assert max(at.limit for at in settled) <= 64
    assert settled[-1].load.preemptions == 0
    assert lost(settled) == 0


@seeds
@pytest.mark.parametrize("capacity, kv_tokens", [(64, 20_000), (256, 20_000), (256, 50_000)])
def test_with_little_memory_it_settles_below_thrash(capacity, kv_tokens, seed):
    machine = Machine(capacity, kv_tokens, seed)
    seen = run(machine, 600)
    settled = seen[300:]
    fits = kv_tokens / machine.MEAN_HISTORY
    limits = [at.limit for at in settled]
    assert 0.25 * fits <= min(limits)
    assert max(limits) <= 1.25 * fits
    assert max(limits) <= 2.5 * min(limits)
    assert lost(settled) < 0.1


@seeds
def test_a_burst_of_preemptions_costs_a_quarter_that_comes_back(seed):
    seen = run(Machine(capacity=64, kv_tokens=10**6, seed=seed), 400, burst_at=60)
    before, cut = seen[59].limit, seen[60].limit
    assert 0.7 * before <= cut <= 0.75 * before
    assert min(at.limit for at in seen[60:]) == cut
    assert seen[-1].limit >= 0.9 * before
