"""What the two pools start with: the built-in seeds, or a file of the user's (``seeds``)."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from aloe.errors import UserError
from aloe.given import converted, read_records
from aloe.given.records import Row
from aloe.personas.lexicon import KINDS, Kind
from aloe.personas.pool_files import read_pool_files
from aloe.roles.sentences import finished, joined

FILES: dict[Kind, str] = {"profile": "profiles.jsonl", "personality": "personalities.jsonl"}
"""The built-in seeds, which are English."""

_COLUMNS = ("kind", "text")


def built_in_seeds(kind: Kind) -> list[str]:
    """The seeds that come with this package."""
    path = files("aloe.personas") / "seeds" / FILES[kind]
    assert isinstance(path, Path)
    return [entry.text for entry in read_pool_files([str(path)])]


def read_seeds(path: str) -> dict[Kind, list[str]]:
    """The seeds of a file with the columns kind and text, in order.

    Args:
        path: what `aloe.given.read_records` reads: JSONL, CSV, Parquet or a folder. A text may be a
            list of its sentences.

    Raises:
        UserError: it cannot be read, rows are not of that form, or a kind has no seed.
    """
    found: dict[Kind, list[str]] = {kind: [] for kind in KINDS}
    try:
        for kind, text in converted(read_records(path, _COLUMNS), _seed):
            found[kind].append(text)
    except UserError as error:
        raise UserError(f"personas.seeds: {error}") from error
    for kind, texts in found.items():
        if not texts:
            raise UserError(f"personas.seeds: {path}: no {kind} there, expected at least one")
    return found


def _seed(row: Row) -> tuple[Kind, str]:
    kind = next((known for known in KINDS if known == row["kind"]), None)
    if kind is None:
        raise ValueError(f"kind is {row['kind']!r:.40}, expected {' or '.join(KINDS)}")
    text = row["text"]
    sentences = text if isinstance(text, list) else [text]
    if not all(isinstance(part, str) and part.strip() for part in sentences) or not sentences:
        raise ValueError(f"text is {text!r:.40}, expected some text")
    whole = joined([finished(part.strip()) for part in sentences])
    try:
        whole.encode()
    except UnicodeEncodeError as error:
        raise ValueError("holds half a surrogate pair") from error
    return kind, whole if isinstance(text, list) else str(text).strip()
