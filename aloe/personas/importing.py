"""Persona files: pools in the published format (one JSON string per line), and what becomes one."""

from __future__ import annotations

import json
import unicodedata
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from hashlib import blake2b
from itertools import islice
from typing import Any

from aloe.errors import UserError
from aloe.personas.lexicon import KINDS, off_topic
from aloe.personas.records import parse_object, read_values
from aloe.progress import say
from aloe.storage import Store, read_bytes
from aloe.storage.tables import new_file

_NAMED_LINES = 5
_LETTERS = 64
"""Letters of a text by which its script is told."""
_JSON_SPACE = " \t\r"
_JSON_TYPES = {dict: "an object", list: "an array", bool: "a boolean", type(None): "null"}
_decoder = json.JSONDecoder()


@dataclass(frozen=True)
class ImportReport:
    """What `import_pool` found."""

    kept: int
    """Distinct texts, written in the order in which they were read first."""
    read: int
    """Texts read, repeats included."""
    repeated: int
    """Texts left out because the very same text was read before."""
    off_topic: int
    """Texts kept although a profile seems to name a trait, or a personality an occupation."""
    shortest: int
    """Characters of the shortest text, as are the next two."""
    median: int
    longest: int
    scripts: dict[str, int]
    """Texts by the script of most of their letters, most frequent first: a hint of languages."""


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


def import_pool(
    paths: Iterable[str], kind: str, out: str, columns: Sequence[str] = ()
) -> ImportReport:
    """Check persona files, drop exact repeats and write one file that a config's `files` accept.

    Rows are read and written one after the other: a file of 10^6 need not fit into memory.

    Args:
        paths: files in the published pools' format or, with ``columns``, whatever
            `aloe.personas.records.read_values` reads; fsspec URLs are fine.
        kind: profile or personality; decides which words count as off topic.
        out: file to write, or fsspec URL.
        columns: of each row, joined into one text in this order; empty ones are passed over.

    Raises:
        UserError: a file cannot be read, or rows are not of that form (the first are named); or
            the files hold no text, the kind is unknown, or ``out`` cannot be written.
    """
    paths = list(paths)
    pool = next((known for known in KINDS if known == kind), None)
    if pool is None:
        raise UserError(f"--kind {kind}: expected {' or '.join(KINDS)}")
    lengths, scripts = array("L"), Counter[str]()
    seen: set[bytes] = set()
    read = strays = 0
    folder, _, name = out.rpartition("/")
    try:
        with (
            new_file(Store(folder or ("/" if out.startswith("/") else ".")), name) as target,
            target.open("w", encoding="utf-8", newline="\n") as file,
        ):
            for text in _texts(paths, columns):
                read += 1
                digest = blake2b(text.encode(), digest_size=16).digest()
                if digest in seen:
                    continue
                seen.add(digest)
                file.write(json.dumps(text, ensure_ascii=False) + "\n")
                lengths.append(len(text))
                scripts[_script(text)] += 1
                strays += off_topic(pool, text) is not None
            if not read:
                raise UserError(
                    f"{', '.join(paths)}: no persona there, expected one JSON string per line"
                )
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror or error})") from error
    ordered = sorted(lengths)
    report = ImportReport(
        kept=len(lengths),
        read=read,
        repeated=read - len(lengths),
        off_topic=strays,
        shortest=ordered[0],
        median=ordered[len(ordered) // 2],
        longest=ordered[-1],
        scripts=dict(scripts.most_common()),
    )
    say(
        f"{out}: {report.kept} texts ({report.repeated} exact repeats left out; {strays} may hold "
        f"{'a trait' if pool == 'profile' else 'an occupation'}, kept); {report.shortest} to "
        f"{report.longest} characters, median {report.median}; script: "
        + ", ".join(f"{script} {count}" for script, count in report.scripts.items()),
        out=out,
        **asdict(report),
    )
    return report


def _texts(paths: Iterable[str], columns: Sequence[str]) -> Iterator[str]:
    """One text per row, or the JSON strings of each line; UserError names rows that are neither."""
    problems: list[str] = []
    more = 0
    for path in paths:
        for place, value in read_values(path, columns):
            try:
                if isinstance(value, bytes):
                    found = [_joined(value, columns)] if columns else list(_strings(value))
                else:
                    found = [_join(value)]
            except ValueError as error:
                more += len(problems) >= _NAMED_LINES
                problems = [*problems, f"{place}: {error}"][:_NAMED_LINES]
                continue
            yield from (text for text in found if text)
    if problems:
        raise UserError("; ".join(problems) + (f"; and {more} more bad lines" if more else ""))


def _joined(line: bytes, columns: Sequence[str]) -> str:
    if not line.strip():
        return ""
    value = json.loads(line)
    if not isinstance(value, dict):
        raise ValueError("expected a JSON object with these columns")
    return _join(parse_object(value, columns))


def _join(row: dict[str, Any]) -> str:
    """The columns of a row as one text; a list's items are its sentences."""
    parts: list[str] = []
    for name, value in row.items():
        items = value if isinstance(value, list) else [] if value is None else [value]
        for item in items:
            if isinstance(item, dict | list):
                raise ValueError(f"column {name}: expected text or a list of texts")
            if str(item).strip():
                parts.append(" ".join(str(item).split()))
    return _checked(" ".join(parts))


def _script(text: str) -> str:
    """Script of most of the first letters, such as latin, cyrillic or cjk; none without letters."""
    letters = (character for character in text if character.isalpha())
    names = (unicodedata.name(letter, "other") for letter in islice(letters, _LETTERS))
    found = Counter(name.partition(" ")[0].lower() for name in names)
    return max(found, key=lambda name: found[name], default="none")


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
