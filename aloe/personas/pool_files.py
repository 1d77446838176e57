"""Files of a pool's texts: the published format (one JSON string per line), or texts with ids."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from aloe.errors import UserError
from aloe.given import converted, read_lines

_JSON_SPACE = " \t\r"
_JSON_TYPES = {dict: "an object", list: "an array", bool: "a boolean", type(None): "null"}
_decoder = json.JSONDecoder()


class PoolText(NamedTuple):
    """One text of a pool, and the id that its file gives it."""

    text: str
    given_id: str | None = None


def read_pool_files(paths: Iterable[str]) -> list[PoolText]:
    """Read all texts of some files, in order; repeats are kept.

    A line may hold several JSON strings, or objects ``{"id", "text"}``, back to back; blank lines
    are skipped. Paths may be fsspec URLs. Text is UTF-8 and lines end with ``\\n``.

    Raises:
        UserError: a file cannot be read, or lines are not of that form; the first of them are
            named by file and line number.
    """
    return [text for path in paths for text in read_pool_file(path)]


def read_pool_file(path: str) -> Iterator[PoolText]:
    """The texts of one file, one line in memory at a time; see `read_pool_files`."""
    for found in converted(read_lines(path), lambda line: list(_texts(line))):
        yield from found


def ids_of(texts: Iterable[PoolText]) -> dict[str, str]:
    """Given id by text; of a repeated text the first.

    Raises:
        UserError: two texts have the same id.
    """
    ids: dict[str, str] = {}
    texts_of: dict[str, str] = {}
    for text, given_id in texts:
        if given_id is None or text in ids:
            continue
        if given_id in texts_of:
            raise UserError(f"id {given_id}: two texts have it, expected one")
        ids[text], texts_of[given_id] = given_id, text
    return ids


def pool_line(entry: PoolText) -> str:
    """What `read_pool_files` reads back."""
    value = entry.text if entry.given_id is None else {"id": entry.given_id, "text": entry.text}
    return json.dumps(value, ensure_ascii=False) + "\n"


def checked_text(value: object) -> str:
    """The text itself; ValueError says why it is none."""
    if not isinstance(value, str):
        got = _JSON_TYPES.get(type(value), "a number")
        raise ValueError(f"expected a JSON string, got {got}")
    if not value.strip():
        raise ValueError("expected a JSON string with text, got an empty one")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError("the string holds half a surrogate pair, which is no character") from error
    return value


def _texts(line: bytes) -> Iterator[PoolText]:
    try:
        rest = line.decode().strip(_JSON_SPACE)
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 (byte {error.start + 1})") from error
    while rest:
        try:
            value, end = _decoder.raw_decode(rest)
        except json.JSONDecodeError as error:
            raise ValueError(f"expected a JSON string, got broken JSON ({error.msg})") from error
        except RecursionError:
            raise ValueError("expected a JSON string, got JSON that is nested too deeply") from None
        if isinstance(value, dict) and value.keys() == {"id", "text"}:
            yield PoolText(checked_text(value["text"]), checked_text(value["id"]))
        else:
            yield PoolText(checked_text(value))
        rest = rest[end:].lstrip(_JSON_SPACE)
