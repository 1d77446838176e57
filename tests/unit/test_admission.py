from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aloe.engines.admission import Admission, begin, busiest, observe
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


@given(loads, st.integers(1, 500), st.lists(st.tuples(loads, st.integers(0, 600)), max_size=30))
def test_the_limit_keeps_its_bounds(first, most, seen):
    state = begin(first, most)
    for load, open_now in seen:
        state = observe(state, load, open_now)
        assert 1 <= state.limit <= most


ROOM = Load(running=10, waiting=0, capacity=64)


def test_it_grows_while_there_is_room_and_the_limit_is_reached():
    state = Admission(limit=16, most=100)
    assert observe(state, ROOM, 16).limit == 20
    assert observe(state, ROOM, 15).limit == 16
    assert observe(replace(state, most=18), ROOM, 16).limit == 18


@pytest.mark.parametrize("full", [{"waiting": 1}, {"running": 64}, {"kv_usage": 0.9}])
def test_nobody_is_admitted_to_a_full_engine(full):
    assert observe(Admission(limit=16, most=100), replace(ROOM, **full), 16).limit == 16


def test_preemptions_cut_what_is_open_once():
    state = observe(Admission(limit=40, most=100), replace(ROOM, preemptions=3), 20)
    assert state.limit == 15
    assert observe(state, replace(ROOM, preemptions=3, waiting=1), 15).limit == 15


def test_lost_prefixes_cut_once_enough_tokens_tell():
    state = Admission(limit=40, most=100)
    little = replace(ROOM, reusable_tokens=1000, cached_tokens=0)
    assert observe(state, little, 30).limit == 40
    much = replace(ROOM, reusable_tokens=5000, cached_tokens=2000)
    cut = observe(observe(state, little, 30), much, 40)
    assert cut.limit == 30
    assert observe(cut, replace(much, reusable_tokens=9000, cached_tokens=6000), 20).limit == 30


def test_the_busiest_engine_decides_and_all_counters_count():
    idle = Load(1, 0, 64, reusable_tokens=10, cached_tokens=5)
    queueing = Load(8, 3, 8, kv_usage=0.4, preemptions=2, reusable_tokens=7)
    both = busiest([idle, queueing])
    assert (both.running, both.waiting, both.capacity) == (8, 3, 8)
    assert (both.preemptions, both.reusable_tokens, both.cached_tokens) == (2, 17, 5)


@dataclass
class Machine:
    """A model of an engine under trees: each open one keeps a growing prefix in an LRU cache."""

    capacity: int
    kv_tokens: int
    tree_tokens: int = 1500
    calls: float = 1.3
    """In flight per open tree."""
    totals: dict[str, int] = field(default_factory=lambda: {"preemptions": 0, "r": 0, "c": 0})

    def load(self, open_now: int) -> Load:
        in_flight = int(open_now * self.calls)
        running = min(in_flight, self.capacity)
        held = running * self.tree_tokens / self.kv_tokens
        if held > 1:
            self.totals["preemptions"] += int((held - 1) * running) + 1
        # Of what all open trees would reuse, the part that fits into the cache is there.
        self.totals["r"] += open_now * 400
        self.totals["c"] += int(
            open_now * 400 * min(1, self.kv_tokens / max(open_now * self.tree_tokens, 1))
        )
        return Load(
            running,
            in_flight - running,
            self.capacity,
            min(held, 1.0),
            self.totals["preemptions"],
            self.totals["r"],
            self.totals["c"],
        )


def run(machine: Machine, steps: int = 80) -> list[int]:
    state = begin(machine.load(0), most=1000)
    limits = []
    for _ in range(steps):
        state = observe(state, machine.load(state.limit), state.limit)
        limits.append(state.limit)
    return limits


def test_with_enough_memory_the_engine_is_filled_and_no_more():
    limits = run(Machine(capacity=64, kv_tokens=10**6))
    assert 64 / 1.3 <= limits[-1] <= 64
    assert len(set(limits[10:])) == 1


@pytest.mark.parametrize("kv_tokens", [20_000, 50_000, 80_000])
def test_with_little_memory_it_settles_below_thrash(kv_tokens):
    machine = Machine(capacity=256, kv_tokens=kv_tokens)
    settled = run(machine)[40:]
    fits = kv_tokens / machine.tree_tokens
    assert 0.4 * fits <= min(settled)
    assert max(settled) <= 1.5 * fits
