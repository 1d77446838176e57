"""What the two pools start with: the built-in seeds, or a file of the user's (``seeds``)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

from aloe.errors import UserError
from aloe.personas.lexicon import KINDS, Kind
from aloe.personas.pool_files import read_pool_files
from aloe.personas.records import parse_object, read_values
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
        path: what `aloe.personas.records.read_values` reads: JSONL, CSV, Parquet or a folder. A
            text may be a list of its sentences.

    Raises:
        UserError: it cannot be read, a row is not of that form, or a kind has no seed.
    """
    found: dict[Kind, list[str]] = {kind: [] for kind in KINDS}
    for place, row in _rows(path):
        kind = next((known for known in KINDS if known == row["kind"]), None)
        if kind is None:
            raise UserError(
                f"personas.seeds: {place}: kind is {row['kind']!r:.40}, expected "
                f"{' or '.join(KINDS)}"
            )
        found[kind].append(_text(place, row["text"]))
    for kind, texts in found.items():
        if not texts:
            raise UserError(f"personas.seeds: {path}: no {kind} there, expected at least one")
    return found


def _rows(path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for place, value in read_values(path, _COLUMNS):
        if not isinstance(value, bytes):
            yield place, value
        elif value.strip():
            try:
                line = json.loads(value)
                if not isinstance(line, dict):
                    raise ValueError("not an object")
                yield place, parse_object(line, _COLUMNS)
            except ValueError as error:
                raise UserError(
                    f'personas.seeds: {place}: expected {{"kind": ..., "text": ...}} ({error})'
                ) from error


def _text(place: str, value: Any) -> str:
    sentences = value if isinstance(value, list) else [value]
    if not all(isinstance(part, str) and part.strip() for part in sentences) or not sentences:
        raise UserError(f"personas.seeds: {place}: text is {value!r:.40}, expected some text")
    try:
        value_text = joined([finished(part.strip()) for part in sentences])
        value_text.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"personas.seeds: {place}: holds half a surrogate pair") from error
    return value_text if isinstance(value, list) else str(value).strip()
