"""What the driver and the training processes tell each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from aloe.config import DpoConfig, SftConfig
from aloe.storage import Store


@dataclass(frozen=True)
class Job:
    """What every rank is told."""

    kind: str
    """sft or dpo; also the stage's folder under training/."""
    store: Store
    checkpoint: str
    """Where the model starts: embedded://NAME, folder, URL or Hugging Face id."""
    options: SftConfig | DpoConfig
    seed: int
    trust_remote_code: bool


@dataclass(frozen=True)
class Begin:
    """A phase of ``total`` units starts; the one before is over."""

    label: str
    total: int


@dataclass(frozen=True)
class Advance:
    """``units`` more of the phase are done."""

    units: int


@dataclass(frozen=True)
class Measured:
    """Numbers after ``step`` optimizer steps."""

    split: str
    step: int
    values: dict[str, float]
    whole: bool = False
    """Of all rows that are looked at, not of one step's batch."""


@dataclass(frozen=True)
class Note:
    """A sentence for the user."""

    text: str


Event = Begin | Advance | Measured | Note


@dataclass(frozen=True)
class Outcome:
    """What the first rank returns at the end."""

    results: dict[str, Any]
    counts: dict[str, int]
