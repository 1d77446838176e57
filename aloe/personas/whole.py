"""Whole personas, as ``personas.given`` has them: a profile, maybe a personality, maybe an id."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from aloe.given import converted, is_missing, joined, read_records, text_of
from aloe.personas.pool_files import checked_text


class WholePersona(NamedTuple):
    """One persona that is never paired anew."""

    profile: str
    personality: str
    """Empty where one text tells of all."""
    given_id: str | None


def read_personas(paths: Iterable[str]) -> Iterator[WholePersona]:
    """The rows of some files, one after the other.

    Args:
        paths: of any form that `aloe.given.read_records` reads, with the column ``profile`` and, if
            there are such, ``personality`` and ``id``.

    Raises:
        UserError: a file cannot be read, or rows are not of that form; the first are named.
    """
    for path in paths:
        records = read_records(path, ["profile"], ["personality", "id"])
        yield from converted(records, _persona)


def persona_line(persona: WholePersona) -> str:
    """A JSON line that `read_personas` reads back."""
    row = {"id": persona.given_id} if persona.given_id is not None else {}
    row |= {"profile": persona.profile, "personality": persona.personality}
    return json.dumps(row, ensure_ascii=False) + "\n"


def given_id(value: object, column: str) -> str:
    """A row's id as text; ValueError if it is none."""
    try:
        text = text_of(value)
    except ValueError as error:
        raise ValueError(f"no id in {column}, expected text or a number") from error
    if not text.strip():
        raise ValueError(f"no id in {column}, expected text or a number")
    return checked_text(text)


def _persona(row: Mapping[str, Any]) -> WholePersona:
    personality = joined(row, ["personality"]) if "personality" in row else ""
    profile = joined(row, ["profile"])
    if not profile:
        raise ValueError("no text in profile, expected some")
    named = not is_missing(row.get("id"))
    return WholePersona(
        checked_text(profile),
        checked_text(personality) if personality else "",
        given_id(row["id"], "id") if named else None,
    )
