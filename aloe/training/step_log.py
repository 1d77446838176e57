"""Numbers of one optimizer step, over all ranks."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch

from aloe.training.protocol import Advance, Event, Measured


class StepLog:
    """Counts what goes through the model and tells it after each optimizer step.

    Seconds are wall time of the calls. Those of a GPU go on in the background, so there the phases
    are told apart only roughly; their sum is right, as each micro-batch ends by reading its loss.
    """

    def __init__(
        self,
        strategy: Any,
        model: torch.nn.Module,
        engine: Any,
        scheduler: Any,
        tell: Callable[[Event], None],
    ) -> None:
        """``model`` is what the trainer calls, ``engine`` DeepSpeed's part of it."""
        self._strategy, self._scheduler, self._tell = strategy, scheduler, tell
        self._model, self._engine = model, engine
        self.total_tokens = self.total_computed = 0
        """Tokens of all rows, and those that went through the model: a tree's only once."""
        self.losses: list[float] = []
        self._began: dict[str, float] = {}
        model.register_forward_pre_hook(self._count, with_kwargs=True)
        self.watch(model, "forward")
        model.register_forward_hook(self._look)
        for phase, method in (("backward", "backward"), ("update", "optimizer_step")):
            setattr(strategy, method, self._timed(phase, getattr(strategy, method)))
        self.start()

    def _count(self, _: torch.nn.Module, __: Any, call: dict[str, Any]) -> None:
        self._tokens += int((call["attention_mask"] > 0).sum())

    def _look(self, model: torch.nn.Module, _: Any, __: Any) -> None:
        entropy = getattr(model, "entropy", None)
        if entropy is not None:
            self.add(entropy=entropy)

    def watch(self, module: torch.nn.Module, phase: str) -> None:
        """Count the seconds of the module's forward passes as those of ``phase``."""

        def begin(*_: Any) -> None:
            self._began[phase] = time.monotonic()

        def end(*_: Any) -> None:
            self._seconds[phase] += time.monotonic() - self._began[phase]

        module.register_forward_pre_hook(begin)
        module.register_forward_hook(end)

    def _timed(self, phase: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **options: Any) -> Any:
            began = time.monotonic()
            try:
                return call(*arguments, **options)
            finally:
                self._seconds[phase] += time.monotonic() - began

        return timed

    def add(self, **values: float) -> None:
        """Numbers of one micro-batch; the step tells their means."""
        for name, value in values.items():
            self._sums[name] += value
            self._micro_batches[name] += 1

    def start(self) -> None:
        """Forget what went through the model so far."""
        self._tokens, self._since = 0, time.monotonic()
        self._computed = getattr(self._model, "computed", 0)
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._sums: defaultdict[str, float] = defaultdict(float)
        self._micro_batches: defaultdict[str, int] = defaultdict(int)
        self._rate = self._scheduler.get_last_lr()[0]

    def step(self, step: int, values: dict[str, float]) -> None:
        """Tell the step's numbers: means over micro-batches and ranks.

        Besides ``values`` and what was added: learning rate, gradient norm, tokens of the rows,
        tokens computed, seconds, and those of each phase; on a GPU the most memory, in GiB, that
        this rank's tensors took so far.

        Args:
            step: optimizer steps done.
            values: means over this rank's micro-batches; ``loss`` is among them.
        """
        added = {name: total / self._micro_batches[name] for name, total in self._sums.items()}
        shared = self._strategy.all_reduce({**values, **added})
        computed = getattr(self._model, "computed", 0) - self._computed
        tokens, computed = (
            int(self._strategy.all_reduce(float(number), op="sum"))
            for number in (self._tokens, computed)
        )
        self.total_tokens += tokens
        self.total_computed += computed
        self.losses.append(shared["loss"])
        shared["learning_rate"] = self._rate
        if self._engine.get_global_grad_norm() is not None:  # ZeRO stage 0 keeps none
            shared["grad_norm"] = self._strategy.get_grad_norm(self._engine)
        seconds = time.monotonic() - self._since
        shared |= {"tokens": tokens, "computed_tokens": computed, "seconds": seconds}
        shared["tokens_per_second"] = tokens / seconds
        if torch.cuda.is_available():
            shared["gpu_gib"] = torch.cuda.max_memory_allocated() / (1 << 30)
        shared |= {f"seconds_{phase}": spent for phase, spent in self._seconds.items()}
        self._tell(Measured("train", step, shared))
        self._tell(Advance(1))
        self.start()
