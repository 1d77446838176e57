"""Checkpoints: read without running their code, put in place in one move."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fsspec.implementations.local import LocalFileSystem

from aloe.errors import UserError
from aloe.schema import stable_id
from aloe.storage import Store
from aloe.storage.files import PARTIAL, on_disk, unfinished_beside


def refuse_remote_code(checkpoint: str, trusted: bool) -> None:
    """Stop before a checkpoint's own Python code runs; OpenRLHF always loads with it switched on.

    Args:
        checkpoint: local folder or Hugging Face id.
        trusted: ``training.trust_remote_code``.

    Raises:
        UserError: the checkpoint cannot be read, or brings code that is not trusted.
    """
    from transformers import PretrainedConfig

    try:
        config, _ = PretrainedConfig.get_config_dict(checkpoint)
    except (OSError, ValueError) as error:
        raise UserError(
            f"checkpoint {checkpoint}: cannot be read ({str(error).splitlines()[0]})"
        ) from error
    if "auto_map" in config and not trusted:
        raise UserError(
            f"checkpoint {checkpoint}: brings its own code; "
            "read it, then set training.trust_remote_code"
        )


def fingerprint(checkpoint: str, dtype: str) -> str:
    """16 hex digits that tell checkpoints apart, by the content of a local folder's files.

    Args:
        checkpoint: local folder or Hugging Face id; of an id only the name counts.
        dtype: in which the model computes.
    """
    folder = Path(checkpoint)
    if not folder.is_dir():
        return stable_id(checkpoint, dtype)
    digests = {}
    for path in sorted(folder.iterdir()):
        if path.suffix in (".json", ".safetensors", ".bin", ".jinja", ".txt", ".model"):
            with path.open("rb") as file:
                digests[path.name] = hashlib.file_digest(file, "blake2b").hexdigest()
    return stable_id(digests, dtype)


@contextmanager
def new_checkpoint(store: Store, folder: str) -> Iterator[Path]:
    """A scratch folder that becomes ``folder`` of the run when the block ends well.

    On a local disk it appears in one rename. An object store has no rename: there the files are
    uploaded, and the stage's manifest, written last, says that they are all there.
    """
    made = _renamed if isinstance(store.fs, LocalFileSystem) else _uploaded
    with on_disk(store.url(folder), "written"), made(store, folder) as scratch:
        yield scratch


@contextmanager
def _uploaded(store: Store, folder: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="aloe-checkpoint-") as scratch:
        yield Path(scratch)
        store.remove(folder)
        store.upload(Path(scratch), folder)


@contextmanager
def _renamed(store: Store, folder: str) -> Iterator[Path]:
    target = store.path(folder)
    for left_over in Path(target).parent.glob(f"{Path(target).name}.*{PARTIAL}"):
        shutil.rmtree(left_over)
    partial = unfinished_beside(Path(target))
    partial.mkdir(parents=True)
    try:
        yield partial
        for file in partial.iterdir():
            file.chmod(0o644)  # safetensors makes files that only their owner can read
        shutil.rmtree(target, ignore_errors=True)  # of a start that was killed before its manifest
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
