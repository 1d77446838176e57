"""Engines that stay from stage to stage of one run (`run.keep_engines`).

A stage opens its pools as ever (`aloe.engines.pool`). Within `kept_engines`, those that a later
stage needs are not closed at its end, and a model that would have lived in the stage's actors gets
a pool. Nothing is kept across runs.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from aloe.config import VllmModel
from aloe.engines.lease import Lease
from aloe.progress import say


@dataclass
class _Kept:
    name: str
    leases: list[Lease]
    gpus: float
    cpus: float


class KeptEngines:
    """The pools that are kept, and which stages need them."""

    def __init__(self, uses: Mapping[str, Collection[VllmModel]]) -> None:
        """Keep nothing yet.

        Args:
            uses: models of each stage that is still to be run, in the order of the run.
        """
        self._left = [(stage, set(map(plain, models))) for stage, models in uses.items()]
        self._pools: dict[VllmModel, _Kept] = {}

    def begin(self, stage: str) -> None:
        """A stage starts: what it and the later ones do not need is closed.

        One that is not to be run, because it is complete, changes nothing.
        """
        if stage not in [name for name, _ in self._left]:
            return
        while self._left and self._left[0][0] != stage:
            self._left.pop(0)
        needed = set().union(*(models for _, models in self._left))
        self._close([model for model in self._pools if model not in needed], "not needed any more")

    def keeps(self, model: VllmModel) -> bool:
        """Whether a model of the present stage is there already, or is needed again."""
        later = set().union(*(models for _, models in self._left[1:]))
        return plain(model) in self._pools or plain(model) in later

    def keep(self, name: str, model: VllmModel, lease: Lease, gpus: float, cpus: float) -> None:
        """Take over engines that the present stage has started.

        Args:
            gpus: (logical) GPUs that they hold in all.
            cpus: CPUs that they hold in all.
        """
        kept = self._pools.setdefault(plain(model), _Kept(name, [], 0.0, 0.0))
        kept.leases.append(lease)
        kept.gpus, kept.cpus = kept.gpus + gpus, kept.cpus + cpus

    def models(self) -> list[VllmModel]:
        """Those whose engines are there."""
        return list(self._pools)

    def idle(self, models: Collection[VllmModel]) -> tuple[float, float]:
        """(Logical) GPUs and CPUs that engines of other models than these hold."""
        others = self._others(models)
        return (
            sum(self._pools[model].gpus for model in others),
            sum(self._pools[model].cpus for model in others),
        )

    def make_room(self, models: Collection[VllmModel], reason: str) -> None:
        """Close all engines but those of these models."""
        self._close(self._others(models), reason)

    def _others(self, models: Collection[VllmModel]) -> list[VllmModel]:
        wanted = set(map(plain, models))
        return [model for model in self._pools if model not in wanted]

    def _close(self, models: Collection[VllmModel], reason: str) -> None:
        for model in models:
            kept = self._pools.pop(model)
            say(f"{kept.name}: engines closed ({reason})", model=kept.name)
            for lease in kept.leases:
                lease.end()


_current: KeptEngines | None = None


def kept() -> KeptEngines | None:
    """What this process keeps now, if it keeps engines."""
    return _current


@contextmanager
def kept_engines(uses: Mapping[str, Collection[VllmModel]]) -> Iterator[KeptEngines]:
    """Keep engines between the stages of the block; all are closed at its end.

    Args:
        uses: see `KeptEngines`.
    """
    global _current  # stages open pools where nothing is handed through
    _current = KeptEngines(uses)
    try:
        yield _current
    finally:
        ending, _current = _current, None
        ending.make_room((), "the run is over")


def plain(model: VllmModel) -> VllmModel:
    """A model without where its engines are: what tells engines apart."""
    return model.model_copy(update={"pool": None})
