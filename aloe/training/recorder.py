"""What a training tells, on the driver: progress, a table of all numbers, TensorBoard."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from fsspec.implementations.local import LocalFileSystem
from tensorboard.summary import DirectoryOutput, Writer

from aloe.progress import meter, say
from aloe.schema import METRICS
from aloe.storage import Store
from aloe.storage.files import on_disk
from aloe.training.protocol import (
    Advance,
    Begin,
    Event,
    Measured,
    Note,
    Resumed,
    Saved,
    Saving,
)

_SHOWN = {
    "loss",
    "accuracy",
    "accuracy_logprob",
    "accuracy_reward",
    "margin",
    "reward",
    "reward_verifiable",
    "reward_judge",
    "reward_model",
    "kl",
    "sync_kl",
    "tokens_per_second",
}
"""What a line of text shows; the table, TensorBoard and JSON lines have all."""


class Recorder:
    """Takes events one after the other; see `recorded`."""

    def __init__(self, kind: str, store: Store, bars: ExitStack, board: Path) -> None:
        self._kind, self._store, self._bars, self._board = kind, store, bars, board
        self._rows: list[dict[str, Any]] = []
        self._bar: Any = None
        self._writer = Writer(DirectoryOutput(str(board)))

    def take(self, event: Event) -> None:
        """Show it, and keep its numbers."""
        if isinstance(event, Begin):
            self._bars.close()
            self._bar = self._bars.enter_context(meter(event.label, event.total, event.done))
        elif isinstance(event, Advance):
            self._bar(event.units)
        elif isinstance(event, Note):
            say(event.text, **event.fields)
        elif isinstance(event, Resumed):
            say(f"{self._kind}: goes on after step {event.step}", step=event.step)
            for measured in event.measured:
                self._keep(measured)
        elif isinstance(event, Saved):
            self.save()
        elif isinstance(event, Saving):
            return
        else:
            self._keep(event)
            numbers = ", ".join(
                f"{name} {value:.4g}" for name, value in event.values.items() if name in _SHOWN
            )
            what = f"{event.split} split after" if event.whole else "batch of"
            say(f"{what} step {event.step}: {numbers}", **event.values)

    def _keep(self, event: Measured) -> None:
        prefix = "whole_" if event.whole and event.split == "train" else ""
        where = {"stage": self._kind, "split": event.split, "step": event.step}
        for name, value in event.values.items():
            self._rows.append({**where, "name": prefix + name, "value": value})
            self._writer.add_scalar(f"{event.split}/{prefix}{name}", value, event.step)

    def close(self) -> None:
        """Write down all numbers; nothing may be told afterwards."""
        if self._rows:
            self.save()
        self._writer.close()

    def save(self) -> None:
        """Write down all numbers so far."""
        folder = f"training/{self._kind}"
        self._writer.flush()
        self._store.write_table(f"{folder}/metrics.parquet", self._rows, METRICS)
        if not isinstance(self._store.fs, LocalFileSystem):
            self._store.upload(self._board, f"{folder}/tensorboard")


@contextmanager
def recorded(kind: str, store: Store) -> Iterator[Recorder]:
    """A recorder whose numbers are written to ``training/<kind>/`` however the block ends.

    ``metrics.parquet`` has rows of `aloe.schema.METRICS`, ``tensorboard/`` the same as event
    files: on a local disk while they come, on an object store whenever a state is kept.
    """
    folder = f"training/{kind}/tensorboard"
    store.remove(folder)  # of a start that was killed: its numbers are told again
    with on_disk(store.url(folder), "written"), ExitStack() as stack:
        if isinstance(store.fs, LocalFileSystem):
            board = Path(store.path(folder))
        else:
            board = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="aloe-board-")))
        recorder = Recorder(kind, store, stack.enter_context(ExitStack()), board)
        stack.callback(recorder.close)
        yield recorder
