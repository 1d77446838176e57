"""Where a run of PPO is, and from where a killed one goes on.

training/ppo/state/<updates>/<role>/    DeepSpeed's files and random numbers of each rank
training/ppo/state/<updates>.json       `Position`; written last, so what it names is whole
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from aloe.errors import UserError
from aloe.storage import Store, Usage
from aloe.storage.records import fitting, read_record
from aloe.training.protocol import Measured


@dataclass
class Position:
    """Where a run is after ``step`` updates."""

    step: int
    ranks: dict[str, int]
    """Processes of the roles that are trained."""
    kl_coef: float
    usage: dict[str, Any] = field(default_factory=lambda: asdict(Usage()))
    """Tokens of user and judge."""
    policy_tokens: int = 0
    episodes: int = 0
    failed: int = 0
    """Episodes that ended early because a call failed for good."""
    measured: list[Measured] = field(default_factory=list)


def read_position(store: Store, folder: str, ranks: dict[str, int]) -> Position | None:
    """Where the last state was kept; None at the beginning.

    Args:
        folder: of the stage in the run.
        ranks: processes of each role that is trained.

    Raises:
        UserError: other numbers of ranks wrote it.
    """
    names = [name for name in store.names(folder, "state") if name.endswith(".json")]
    if not names:
        return None
    state = f"{folder}/state"
    position = read_record(store, f"{state}/{names[-1]}", "a position", _position, remove=state)
    if position.ranks != ranks:
        raise UserError(
            f"placements of training.ppo: {ranks} ranks, but {store.url(folder, 'state')} was kept "
            f"by {position.ranks}; go on with as many, or begin again with --resume=never in "
            "another folder"
        )
    return position


def _position(values: Any) -> Position:
    fitting(Position, values)
    return Position(**{**values, "measured": [Measured(**row) for row in values["measured"]]})
