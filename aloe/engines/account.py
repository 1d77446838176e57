"""What a run may spend and has spent: the driver's side of ``run.max_tokens``, ``max_cost_usd``.

The actors tell a board what each call cost (`aloe.engines.board`) and ask it before a turn starts;
the driver reads the board, shows the sums and writes them into the ledger.
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass

from aloe.config import Config
from aloe.errors import StageStopped, WorldFault
from aloe.storage import Store, Usage
from aloe.storage.spending import note_spent, spent_by_stage

_NOTE_EVERY_S = 2.0
"""Seconds of spending that a killed driver may forget."""


@dataclass(frozen=True)
class Allowance:
    """What may still be spent; None is without bound."""

    tokens: int | None = None
    cost_usd: float | None = None

    @property
    def bounded(self) -> bool:
        return self.tokens is not None or self.cost_usd is not None

    def covers(self, spent: Usage) -> bool:
        """Whether there is anything left when so much is spent."""
        return (self.tokens is None or tokens_of(spent) < self.tokens) and (
            self.cost_usd is None or spent.cost_usd < self.cost_usd
        )


class Account:
    """What one stage spends in this start, beside what the run has spent before."""

    def __init__(self, config: Config, store: Store, stage: str) -> None:
        """Read the ledger.

        Raises:
            StageStopped: the run has spent all that it may.
        """
        self._limits = Allowance(config.run.max_tokens, config.run.max_cost_usd)
        self._store, self._stage = store, stage
        spent = spent_by_stage(store)
        self._before = spent.get(stage, Usage())
        self._elsewhere = sum(
            (usage for name, usage in spent.items() if name != stage), start=Usage()
        )
        self._since = Usage()
        self._noted_at = time.monotonic()
        if not self.open:
            raise self.stopped()

    def allowance(self) -> Allowance:
        """What is left for this start."""
        before, limits = self._elsewhere + self._before, self._limits
        return Allowance(
            None if limits.tokens is None else limits.tokens - tokens_of(before),
            None if limits.cost_usd is None else limits.cost_usd - before.cost_usd,
        )

    def spend(self, usage: Usage) -> None:
        """So much more is spent; the ledger hears of it now and then."""
        self._since += usage
        if time.monotonic() - self._noted_at >= _NOTE_EVERY_S:
            self.note()

    def note(self) -> None:
        """Write the ledger. A store that does not take it now gets it with the next one."""
        self._noted_at = time.monotonic()
        if self._since.calls:
            with suppress(WorldFault):
                note_spent(self._store, self._stage, self._before + self._since)

    @property
    def open(self) -> bool:
        """Whether more may be spent."""
        return self._limits.covers(self._spent)

    def stopped(self) -> StageStopped:
        """Why the stage ends before its end, to be raised."""
        why = " and ".join(self._reached()) or "nobody counts any more what is spent"
        return StageStopped(
            f"{self._stage}: stopped, as {why}; nothing is lost, the same command goes on with a "
            "higher limit"
        )

    def line(self) -> str:
        """What is spent of what may be, for a bar; empty where there is no limit."""
        limits, spent = self._limits, self._spent
        parts = []
        if limits.tokens is not None:
            parts.append(f"{tokens_of(spent):,}/{limits.tokens:,} tokens")
        if limits.cost_usd is not None:
            parts.append(f"${spent.cost_usd:,.2f}/${limits.cost_usd:,.2f}")
        return ", ".join(parts)

    def fields(self) -> dict[str, object]:
        """The same numbers for machines."""
        if not self._limits.bounded:
            return {}
        return {
            "spent_tokens": tokens_of(self._spent),
            "spent_usd": self._spent.cost_usd,
            "max_tokens": self._limits.tokens,
            "max_cost_usd": self._limits.cost_usd,
        }

    @property
    def _spent(self) -> Usage:
        return self._elsewhere + self._before + self._since

    def _reached(self) -> list[str]:
        limits, spent = self._limits, self._spent
        found: list[str] = []
        if limits.tokens is not None and tokens_of(spent) >= limits.tokens:
            found.append(
                f"{tokens_of(spent):,} tokens of run.max_tokens {limits.tokens:,} are spent"
            )
        if limits.cost_usd is not None and spent.cost_usd >= limits.cost_usd:
            found.append(
                f"${spent.cost_usd:,.2f} of run.max_cost_usd {limits.cost_usd:g} are spent"
            )
        return found


def tokens_of(usage: Usage) -> int:
    """Tokens that count: prompts, cached or not, and completions."""
    return usage.prompt_tokens + usage.completion_tokens
