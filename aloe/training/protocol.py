"""What the driver and the training processes tell each other."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from aloe.chat import ChatOptions
from aloe.config import DpoConfig, PpoConfig, RewardConfig, SftConfig
from aloe.storage import Store, Usage

RowOptions = SftConfig | RewardConfig | DpoConfig
"""Settings of a kind of training that goes over rows."""
Options = RowOptions | PpoConfig
"""Settings of one kind of training."""


@dataclass(frozen=True)
class Job:
    """What every process is told."""

    kind: str
    """sft, reward, dpo or ppo; also the stage's folder under training/."""
    store: Store
    checkpoint: str
    """Where the model starts: embedded://NAME, folder, URL or Hugging Face id."""
    options: Options
    seed: int
    trust_remote_code: bool
    chat: ChatOptions
    """How the checkpoint is talked with."""
    processes: int = 1
    """Processes of the same role on one machine. They share its cores."""
    master: tuple[str, int] | None = None
    """Address and port at which the ranks of a role meet; none if there is one rank."""
    reference: Store | None = None
    """Where log-probs of a frozen reference are kept."""
    reference_ranks: tuple[Any, ...] = ()
    """Ray actors that answer for the reference batch by batch; none if it was asked before."""
    engines: tuple[Any, ...] = ()
    """Ray actors that speak for the policy, in PPO."""
    from_reward_model: bool = False
    """Whether the checkpoint is a reward model: a critic takes over its head."""

    @property
    def folder(self) -> str:
        """The stage's folder in the run."""
        return f"training/{self.kind}"


@dataclass(frozen=True)
class Begin:
    """A phase of ``total`` units starts, of which ``done`` are there; the one before is over."""

    label: str
    total: int
    done: int = 0


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
class Resumed:
    """Training goes on after ``step``; what was measured until then."""

    step: int
    measured: list[Measured] = field(default_factory=list)


@dataclass(frozen=True)
class Saved:
    """From here a killed training can go on."""

    step: int


@dataclass(frozen=True)
class Saving:
    """The last checkpoint is being written: all that is left to do."""


@dataclass(frozen=True)
class Note:
    """A sentence for the user."""

    text: str
    fields: dict[str, str] = field(default_factory=dict)
    """For machines."""


Event = Begin | Advance | Measured | Resumed | Saved | Saving | Note


@dataclass(frozen=True)
class Outcome:
    """What the first rank returns at the end."""

    results: dict[str, Any]
    counts: dict[str, int]
    usage: Usage = field(default_factory=Usage)
    """Of models that spoke."""
