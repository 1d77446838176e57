"""From where a killed training goes on: model, optimizer, schedule, random numbers, position.

training/<kind>/state/<step>/       DeepSpeed's files, and each rank's random number generators
training/<kind>/state/<step>.json   `Position`; written last, so what it names is whole
"""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fsspec.implementations.local import LocalFileSystem

from aloe.errors import UserError
from aloe.storage import Store
from aloe.storage.files import on_disk
from aloe.storage.records import fitting, read_record
from aloe.training.protocol import Measured


@dataclass(frozen=True)
class Position:
    """What the ranks must know besides their model and optimizer."""

    step: int
    """Optimizer steps done."""
    samples: int
    """Training rows consumed, over all ranks and epochs."""
    ranks: int
    tokens: int
    computed_tokens: int
    losses: tuple[float, float]
    """Training loss of the first and of the last step's batch."""
    best: dict[str, float] | None
    """Held-out metrics of the checkpoint that was the best so far, and its step."""
    measured: list[Measured] = field(default_factory=list)
    """All numbers told so far."""


def find_position(store: Store, folder: str, ranks: int, key: str) -> Position | None:
    """Where the training of ``folder`` was when its last state was kept; None at the beginning.

    Args:
        folder: of the stage in the run.
        key: the setting that an error names.

    Raises:
        UserError: another number of ranks wrote it, and DeepSpeed reads its own only.
    """
    names = [name for name in store.names(folder, "state") if name.endswith(".json")]
    if not names:
        return None
    state = f"{folder}/state"
    position = read_record(store, f"{state}/{names[-1]}", "a position", _position, remove=state)
    if position.ranks != ranks:
        raise UserError(
            f"{key}: {ranks} ranks, but {store.url(folder, 'state')} was kept by "
            f"{position.ranks}; go on with as many, or begin again with --resume=never "
            "in another folder"
        )
    return position


def _position(values: Any) -> Position:
    fitting(Position, values)
    measured = [Measured(**row) for row in values["measured"]]
    return Position(**{**values, "losses": tuple(values["losses"]), "measured": measured})


def save_state(store: Store, folder: str, engine: Any, position: Position, rank: int) -> None:
    """Keep a state and forget the one before; called by all ranks.

    Args:
        engine: of DeepSpeed.
    """
    states, tag = f"{folder}/state", _tag(position.step)
    save_engine(store, states, tag, engine, rank)
    if rank == 0:
        mark(store, states, tag, json.dumps(asdict(position)))
    torch.distributed.barrier()


def mark(store: Store, states: str, tag: str, position: str) -> None:
    """Say that the state ``states/tag`` is whole, and forget the others."""
    store.write_text(f"{states}/{tag}.json", position)
    others = [name for name in store.names(states) if name not in (tag, f"{tag}.json")]
    # A marker goes before its folder: what is not whole has none.
    for name in sorted(others, key=lambda name: not name.endswith(".json")):
        store.remove(states, name)


def load_state(store: Store, folder: str, engine: Any, position: Position, rank: int) -> None:
    """Put model, optimizer, schedule and random numbers back to where they were at ``position``."""
    load_engine(store, f"{folder}/state", _tag(position.step), engine, rank)


def save_engine(store: Store, states: str, tag: str, engine: Any, rank: int) -> None:
    """Write model, optimizer, schedule and random numbers to ``states/tag``; by all ranks."""
    with on_disk(store.url(states), "written"), _scratch(store, states) as local:
        engine.save_checkpoint(str(local), tag=tag, save_latest=False)
        torch.save(_random_state(), local / tag / f"random_{rank}.pt")
        if not isinstance(store.fs, LocalFileSystem):
            store.upload(local / tag, f"{states}/{tag}")
    torch.distributed.barrier()


def load_engine(store: Store, states: str, tag: str, engine: Any, rank: int) -> None:
    """Read what `save_engine` wrote; called by all ranks."""
    with _scratch(store, states) as local:
        if not isinstance(store.fs, LocalFileSystem):
            store.fs.get(store.path(states, tag), str(local / tag), recursive=True)
        found, _ = engine.load_checkpoint(str(local), tag=tag)
        if found is None:
            raise RuntimeError(f"{store.url(states, tag)}: DeepSpeed finds no checkpoint there")
        _use_random_state(torch.load(local / tag / f"random_{rank}.pt", weights_only=True))


def _tag(step: int) -> str:
    return f"{step:08d}"


@contextmanager
def _scratch(store: Store, states: str) -> Iterator[Path]:
    """A local folder for DeepSpeed; the run's own where that is on a disk."""
    if isinstance(store.fs, LocalFileSystem):
        yield Path(store.path(states))
        return
    with tempfile.TemporaryDirectory(prefix="aloe-state-") as folder:
        yield Path(folder)


def _random_state() -> dict[str, Any]:
    _, keys, *rest = np.random.get_state()
    state = {
        "python": random.getstate(),
        "numpy": (torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def _use_random_state(state: dict[str, Any]) -> None:
    random.setstate(state["python"])
    keys, *rest = state["numpy"]
    np.random.set_state(("MT19937", keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"])
