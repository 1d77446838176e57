"""Where OpenRLHF's trainers hand over after each optimizer step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

AfterStep = Callable[[int, dict[str, float], int], None]
"""Takes the optimizer steps done, the step's numbers and the training rows consumed so far."""


class Hooked:
    """A base before OpenRLHF's SFT, reward and DPO trainer: logs, evaluates and saves our way."""

    names: ClassVar = {"loss_mean": "loss"}
    """OpenRLHF's name of a number -> ours. Means over the step's micro-batches."""

    def __init__(self, after_step: AfterStep, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.after_step = after_step

    def save_logs_and_checkpoints(
        self,
        args: Any,
        global_step: int,
        step_bar: Any,
        logs_dict: dict[str, float],
        client_states: dict[str, int],
    ) -> None:
        """OpenRLHF's hook after each optimizer step."""
        values = {name: logs_dict[theirs] for theirs, name in self.names.items()}
        self.after_step(global_step, values, client_states["consumed_samples"])
