"""Numbers of one optimizer step, over all ranks."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from aloe.training.protocol import Advance, Event, Measured


class StepLog:
    """Counts what goes through the policy and tells it after each optimizer step."""

    def __init__(
        self,
        strategy: Any,
        policy: torch.nn.Module,
        scheduler: Any,
        tell: Callable[[Event], None],
    ) -> None:
        self._strategy, self._scheduler, self._tell = strategy, scheduler, tell
        self._engine: Any = policy.model
        self._tokens, self._since = 0, time.monotonic()
        self._rate = scheduler.get_last_lr()[0]
        self.total_tokens = 0
        self.losses: list[float] = []
        policy.register_forward_pre_hook(self._count, with_kwargs=True)

    def _count(self, _: torch.nn.Module, __: Any, call: dict[str, Any]) -> None:
        self._tokens += int(call["attention_mask"].sum())

    def start(self) -> None:
        """Forget what went through the policy so far."""
        self._tokens, self._since = 0, time.monotonic()

    def step(self, step: int, values: dict[str, float]) -> None:
        """Tell the means of ``values`` over ranks, and the step's learning rate, tokens, seconds.

        Args:
            step: optimizer steps done.
            values: means over this rank's micro-batches; ``loss`` is among them.
        """
        shared = self._strategy.all_reduce(dict(values))
        tokens = self._strategy.all_reduce(float(self._tokens), op="sum")
        self.total_tokens += int(tokens)
        self.losses.append(shared["loss"])
        shared["learning_rate"] = self._rate
        if self._engine.get_global_grad_norm() is not None:  # ZeRO stage 0 keeps none
            shared["grad_norm"] = self._strategy.get_grad_norm(self._engine)
        shared |= {"tokens": tokens, "seconds": time.monotonic() - self._since}
        self._rate = self._scheduler.get_last_lr()[0]  # of the next step
        self._tell(Measured("train", step, shared))
        self._tell(Advance(1))
        self.start()
