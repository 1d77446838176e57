"""The one place where pools are decided: a Ray actor that all writers of a run talk to."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from aloe.config import PersonasConfig
from aloe.machine import use_reserved_threads
from aloe.personas.encode import SentenceEncoder
from aloe.personas.filter import Floats
from aloe.personas.growth import pool_of, undecided
from aloe.personas.lexicon import KINDS, Kind
from aloe.personas.rounds import read_rounds, write_round
from aloe.personas.writing import Outcome
from aloe.progress import excerpt
from aloe.storage import Store


@dataclass(frozen=True)
class Job:
    """One request to the writer."""

    kind: Kind
    round: int
    request: int
    seed: int
    shown: list[str]


class PoolKeeper:
    """Hands out requests, collects what they bring and decides a round when it is whole.

    A row of the Ray Data pipeline is only a ticket: which request it works on is settled when it
    arrives. So any number of rows in flight, in any order, makes progress, and what joins a pool
    does not depend on who was faster. A ticket that comes again, because its actor died, gets its
    request again.
    """

    def __init__(
        self,
        config: PersonasConfig,
        seed: int,
        store: Store,
        decided: Mapping[Kind, Sequence[str]],
        starting: Mapping[Kind, Sequence[Outcome]],
    ) -> None:
        """Take up the pools where they were left.

        Args:
            decided: names of each pool's rounds, see `aloe.personas.rounds.round_names`.
            starting: outcomes of the first round of pools that have not begun.
        """
        use_reserved_threads()
        self._config, self._store = config, store
        self._pools = {
            kind: pool_of(kind, config, seed, read_rounds(store, decided[kind])) for kind in KINDS
        }
        self._starting = starting
        self._jobs: dict[int, Job] = {}
        self._given = dict.fromkeys(KINDS, 0)
        self._brought: dict[Kind, dict[int, tuple[Outcome, Floats]]] = {kind: {} for kind in KINDS}
        self._newest = ""
        self._closed = False
        self._changed = asyncio.Condition()
        self._given_up = False

    async def start(self) -> int:
        """Decide the first round of pools that have not begun; returns how many texts joined."""
        if not self._starting:
            return 0
        encoder = await asyncio.to_thread(SentenceEncoder, self._config.encoder)
        joined = 0
        for kind, outcomes in self._starting.items():
            vectors = [await asyncio.to_thread(encoder.encode, undecided(o)) for o in outcomes]
            joined += await self._decide(kind, list(zip(outcomes, vectors, strict=True)))
        return joined

    async def stopped(self) -> bool:
        """Whether no pool wants a further round."""
        return all(pool.stopped() for pool in self._pools.values())

    async def close(self) -> None:
        """Open no further rounds; those that are begun are brought to their end and kept."""
        async with self._changed:
            self._closed = True
            self._changed.notify_all()

    async def give_up(self) -> None:
        """Nobody can be asked any more: open rounds stay open, and no ticket waits for them."""
        async with self._changed:
            self._given_up = True
            self._changed.notify_all()

    async def newest(self) -> str:
        """The grown member that has joined last, for a person who watches; empty before one has."""
        return self._newest

    async def take(self, ticket: int) -> Job | None:
        """The next request, as soon as its round is open; None when there will be none."""
        async with self._changed:
            if ticket in self._jobs:
                job = self._jobs[ticket]
                return None if self._is_in(job) else job
            while self._given_up or (job_found := self._next()) is None:
                if self._given_up or await self.stopped() or self._over():
                    return None
                await self._changed.wait()
            self._jobs[ticket] = job_found
            return job_found

    async def hand_in(self, job: Job, outcome: Outcome, vectors: Floats) -> int:
        """Bring a request's outcome; returns how many texts joined if it was its round's last.

        Args:
            vectors: (n, width), embeddings of the outcome's `undecided` texts.
        """
        if self._is_in(job):
            return 0
        brought = self._brought[job.kind]
        brought[job.request] = (outcome, vectors)
        if len(brought) < self._config.requests_per_round:
            return 0
        joined = await self._decide(job.kind, [brought[request] for request in sorted(brought)])
        if joined:
            self._newest = f"a grown {job.kind}: {excerpt(self._pools[job.kind].texts[-1], 300)}"
        return joined

    def _over(self) -> bool:
        return self._closed and not any(self._given.values())

    def _next(self) -> Job | None:
        open_pools = [
            pool
            for pool in self._pools.values()
            if not pool.stopped()
            and self._given[pool.kind] < self._config.requests_per_round
            and (self._given[pool.kind] or not self._closed)
        ]
        if not open_pools:
            return None
        pool = min(open_pools, key=lambda candidate: candidate.round)
        request = self._given[pool.kind]
        self._given[pool.kind] += 1
        seed, shown = pool.request_seed(request), pool.shown(request)
        return Job(pool.kind, pool.round, request, seed, shown)

    def _is_in(self, job: Job) -> bool:
        return job.round < self._pools[job.kind].round or job.request in self._brought[job.kind]

    async def _decide(self, kind: Kind, brought: Sequence[tuple[Outcome, Floats]]) -> int:
        pool = self._pools[kind]
        before = len(pool.texts)
        outcomes, vectors = [outcome for outcome, _ in brought], [found for _, found in brought]
        # In a thread, so that the other pool's requests go on meanwhile.
        rows = await asyncio.to_thread(pool.decide, outcomes, vectors)
        await asyncio.to_thread(write_round, self._store, rows)
        async with self._changed:
            self._brought[kind].clear()
            self._given[kind] = 0
            self._changed.notify_all()
        return len(pool.texts) - before
