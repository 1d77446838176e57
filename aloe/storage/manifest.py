"""What a stage did: its settings, its counts, its tokens and whether it is complete."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from aloe.config import Resume
from aloe.errors import NotResumable, UserError
from aloe.schema import stable_id
from aloe.storage.records import fitting, read_record
from aloe.storage.store import Store


@dataclass(frozen=True)
class Usage:
    """Tokens and seconds spent in model calls; seconds add up over concurrent calls."""

    calls: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    reusable_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0
    cost_usd: float = 0.0
    replaced: int = 0
    """Characters that a model or server sent and that were none."""

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            *(a + b for a, b in zip(asdict(self).values(), asdict(other).values(), strict=True))
        )

    @staticmethod
    def of_calls(calls: Iterable[Mapping[str, Any]]) -> Usage:
        """Sum over rows of `aloe.schema.CALL`."""
        total = Usage()
        for call in calls:
            total += Usage(
                call["tries"],
                call["prompt_tokens"],
                call["cached_tokens"],
                call["reusable_tokens"],
                call["completion_tokens"],
                call["seconds"],
                call["cost_usd"],
                call["replaced"],
            )
        return total


@dataclass(frozen=True)
class Manifest:
    """Record of one stage in a run folder (``<stage>/manifest.json``)."""

    stage: str
    settings: dict[str, Any]
    """All configuration that the stage's output depends on."""
    fingerprint: str
    """Hash of the settings and of the fingerprints of the stages before."""
    complete: bool = False
    wall_seconds: float = 0.0
    """Wall time over all starts of the stage."""
    usage: Usage = Usage()
    counts: dict[str, int] = field(default_factory=dict)
    results: dict[str, Any] = field(default_factory=dict)
    """Numbers that the report shows."""

    def finish(self, store: Store, started: float, **changes: Any) -> Manifest:
        """Store the manifest as complete; ``started`` is `time.monotonic` at the stage's start."""
        return self._spend(started, complete=True, **changes).save(store)

    def pause(self, store: Store, started: float) -> Manifest:
        """Store the wall time of a start that did not complete the stage."""
        return self._spend(started).save(store)

    @contextmanager
    def paused(self, store: Store, started: float) -> Iterator[None]:
        """Pause where the block raises, whatever it is; a store that is down keeps no time."""
        try:
            yield
        except BaseException:
            with suppress(Exception):
                self.pause(store, started)
            raise

    def _spend(self, started: float, **changes: Any) -> Manifest:
        return replace(self, wall_seconds=self.wall_seconds + time.monotonic() - started, **changes)

    def save(self, store: Store) -> Manifest:
        store.write_text(f"{self.stage}/manifest.json", json.dumps(asdict(self), indent=2) + "\n")
        return self


def load_manifest(store: Store, stage: str) -> Manifest | None:
    """The stage's manifest, or None when the stage has not started.

    Raises:
        UserError: what lies there is no manifest, or that of another version of this program.
    """
    if not store.exists(stage, "manifest.json"):
        return None
    return read_record(store, f"{stage}/manifest.json", "a manifest", _manifest, remove=stage)


def _manifest(values: Any) -> Manifest:
    fitting(Manifest, values)
    return Manifest(**{**values, "usage": Usage(**values["usage"])})


def stage_manifest(
    store: Store,
    stage: str,
    settings: dict[str, Any],
    after: Iterable[str] = (),
    resume: Resume = "if-same",
) -> Manifest:
    """The stage's manifest in this run folder, begun if it is new.

    Args:
        settings: everything in the configuration that decides the output, JSON types only.
        after: stages whose output is read; they must be complete.
        resume: whether a stage that was begun may be gone on with. With ``always`` it keeps the
            fingerprint, and so the ids, that it was begun with.

    Raises:
        UserError: a stage before is not complete.
        NotResumable: the run folder holds this stage, and resume is never, or it is if-same and the
            settings are others (all differences are named).
    """
    before = [require_stage(store, name).fingerprint for name in after]
    fingerprint = stable_id(stage, settings, before)
    found = load_manifest(store, stage)
    if found is None:
        return Manifest(stage, settings, fingerprint).save(store)
    if resume == "never":
        raise NotResumable(f"{store.url(stage)}: was begun before, and run.resume is never")
    if found.fingerprint != fingerprint and resume == "if-same":
        differences = "; ".join(_differences(found.settings, settings)) or "an earlier stage"
        raise NotResumable(
            f"{store.url(stage)}: made with other settings ({differences}); use another run.dir, "
            "remove this folder and those of the stages after it, or --resume=always"
        )
    return found


def require_stage(store: Store, stage: str) -> Manifest:
    """The manifest of a stage that must be complete.

    Raises:
        UserError: the stage has not run to its end in this run folder.
    """
    found = load_manifest(store, stage)
    if found is None or not found.complete:
        raise UserError(f"{store.url(stage)}: not complete; run that stage first")
    return found


def _differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for key in sorted(old.keys() | new.keys()):
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            yield from _differences(a, b, f"{prefix}{key}.")
        elif a != b:
            yield f"{prefix}{key}: {a!r} there, {b!r} now"
