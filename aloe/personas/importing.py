"""Persona files in the published pools' format: one JSON string per line (issue 3)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from aloe.errors import UserError
from aloe.personas.lexicon import KINDS, off_topic
from aloe.progress import say
from aloe.storage import read_bytes, write_bytes

_NAMED_LINES = 5
_JSON_SPACE = " \t\r"
_JSON_TYPES = {dict: "an object", list: "an array", bool: "a boolean", type(None): "null"}
_decoder = json.JSONDecoder()


@dataclass(frozen=True)
class ImportReport:
    """What `import_pool` found."""

    texts: list[str]
    """Distinct texts in the order in which they were read first."""
    read: int
    """Texts read, repeats included."""
    repeated: int
    """Texts left out because the very same text was read before."""
    off_topic: int
    """Texts kept although a profile seems to name a trait, or a personality an occupation."""


def read_pool_files(paths: Iterable[str]) -> list[str]:
    """Read all texts of some files, in order; repeats are kept.

    A line may hold several JSON strings back to back; blank lines are skipped. Paths may be
    fsspec URLs. Text is UTF-8 and lines end with ``\\n``.

    Raises:
        UserError: a file cannot be read, or lines are not of that form; the first of them are
            named by file and line number.
    """
    texts: list[str] = []
    problems: list[str] = []
    for path in paths:
        for number, line in enumerate(_lines(path), start=1):
            try:
                texts.extend(_strings(line))
            except ValueError as error:
                problems.append(f"{path}:{number}: {error}")
    if problems:
        more = len(problems) - _NAMED_LINES
        tail = f"; and {more} more bad lines" if more > 0 else ""
        raise UserError("; ".join(problems[:_NAMED_LINES]) + tail)
    return texts


def import_pool(paths: Iterable[str], kind: str, out: str) -> ImportReport:
    """Check persona files, drop exact repeats and write one file that a config's `files` accept.

    Args:
        paths: files in the published pools' format; fsspec URLs are fine.
        kind: profile or personality; decides which words count as off topic.
        out: file to write, or fsspec URL.

    Raises:
        UserError: see `read_pool_files`; or the files hold no text, the kind is unknown, or
            ``out`` cannot be written.
    """
    paths = list(paths)
    pool = next((known for known in KINDS if known == kind), None)
    if pool is None:
        raise UserError(f"--kind {kind}: expected {' or '.join(KINDS)}")
    read = read_pool_files(paths)
    if not read:
        raise UserError(f"{', '.join(paths)}: no persona there, expected one JSON string per line")
    texts = list(dict.fromkeys(read))
    strays = sum(off_topic(pool, text) is not None for text in texts)
    report = ImportReport(texts, len(read), len(read) - len(texts), strays)
    _write_pool(texts, out)
    say(
        f"{out}: {len(texts)} texts ({report.repeated} exact repeats left out; {strays} may hold "
        f"{'a trait' if pool == 'profile' else 'an occupation'}, kept)",
        out=out,
        read=report.read,
        repeated=report.repeated,
        off_topic=strays,
    )
    return report


def _write_pool(texts: Iterable[str], path: str) -> None:
    body = "".join(json.dumps(text, ensure_ascii=False) + "\n" for text in texts)
    try:
        write_bytes(path, body.encode())
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error})") from error


def _lines(path: str) -> list[bytes]:
    try:
        data = read_bytes(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    # Not splitlines(): JSON strings may hold U+2028 and its like.
    return data.removeprefix(b"\xef\xbb\xbf").split(b"\n")


def _strings(line: bytes) -> Iterator[str]:
    """The JSON strings of one line; ValueError says what else is there."""
    try:
        rest = line.decode().strip(_JSON_SPACE)
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 (byte {error.start + 1})") from error
    while rest:
        try:
            value, end = _decoder.raw_decode(rest)
        except json.JSONDecodeError as error:
            raise ValueError(f"expected a JSON string, got broken JSON ({error.msg})") from error
        yield _checked(value)
        rest = rest[end:].lstrip(_JSON_SPACE)


def _checked(value: object) -> str:
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
