"""Files that people have become files that a configuration accepts, row by row."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from typing import Any, NamedTuple

from aloe.errors import UserError
from aloe.given import converted, joined, read_records
from aloe.personas.duplicates import Hashes, hash_of
from aloe.personas.found import TextCount, TextReport, reports_table
from aloe.personas.lexicon import KINDS, Kind
from aloe.personas.pool_files import PoolText, checked_text, pool_line, read_pool_file
from aloe.personas.whole import WholePersona, given_id, persona_line
from aloe.progress import console, say, telling_json
from aloe.storage import Store
from aloe.storage.tables import new_file

POOL_FILES: dict[Kind, str] = {"profile": "profiles.jsonl", "personality": "personalities.jsonl"}
"""Names of the files of both pools."""


class Columns(NamedTuple):
    """Which columns of a row are read; several are joined into one text, in this order."""

    profile: Sequence[str] = ()
    personality: Sequence[str] = ()
    id: str | None = None

    @property
    def all(self) -> list[str]:
        return [*self.profile, *self.personality, *([self.id] if self.id else [])]


class _Texts(NamedTuple):
    profile: str
    personality: str
    given_id: str | None


def import_pool(
    paths: Sequence[str],
    kind: str,
    out: str,
    columns: Sequence[str] = (),
    id_column: str | None = None,
) -> TextReport:
    """Check texts, drop exact repeats and write one file that a pool's `files` accept.

    Rows are read and written one after the other: a file of 10^6 need not fit into memory.

    Args:
        paths: files in the published pools' format or, with ``columns``, whatever
            `aloe.given.read_records` reads; fsspec URLs are fine.
        kind: profile or personality; decides which words count as off topic.
        out: file to write, or fsspec URL.
        columns: of each row, joined into one text in this order; empty ones are passed over.
        id_column: whose value is kept as the text's id.

    Raises:
        UserError: a file cannot be read, or rows are not of that form (the first are named); or
            the files hold no text, the kind is unknown, or ``out`` cannot be written.
    """
    pool = next((known for known in KINDS if known == kind), None)
    if pool is None:
        raise UserError(f"--kind {kind}: expected {' or '.join(KINDS)}")
    count, ids = TextCount(pool), _Ids()
    with _new_lines(out) as write:
        for entry in _pool_texts(paths, Columns(columns, id=id_column)):
            if count.add(entry.text):
                ids.check(entry.given_id)
                write(pool_line(entry))
        _require_some(count, paths)
    return _told({pool: count}, {pool: out})[pool]


def import_pools(paths: Sequence[str], out: str, columns: Columns) -> dict[str, TextReport]:
    """Both pools from the same rows; which texts went together is not kept.

    Args:
        out: folder, or URL of one, for the two files of `POOL_FILES`.

    Raises:
        UserError: see `import_pool`.
    """
    counts = {kind: TextCount(kind) for kind in KINDS}
    ids = {kind: _Ids() for kind in KINDS}
    files = {kind: f"{out.rstrip('/')}/{name}" for kind, name in POOL_FILES.items()}
    with ExitStack() as stack:
        write = {kind: stack.enter_context(_new_lines(file)) for kind, file in files.items()}
        for texts in _rows(paths, columns):
            for kind, text in zip(KINDS, texts, strict=False):
                if text and counts[kind].add(text):
                    ids[kind].check(texts.given_id)
                    write[kind](pool_line(PoolText(text, texts.given_id)))
        for count in counts.values():
            _require_some(count, paths)
    return _told(counts, files)


def import_personas(paths: Sequence[str], out: str, columns: Columns) -> TextReport:
    """Whole personas, each from one row, as ``personas.given`` reads them.

    Args:
        out: file to write, or fsspec URL.
        columns: those of the personality may be none, where one text tells of all.

    Raises:
        UserError: see `import_pool`; or a row has no profile.
    """
    count, ids = TextCount(None), _Ids()
    with _new_lines(out) as write:
        for texts in _rows(paths, columns):
            if count.add(f"{texts.profile}\n{texts.personality}".strip()):
                ids.check(texts.given_id)
                write(persona_line(WholePersona(texts.profile, texts.personality, texts.given_id)))
        _require_some(count, paths)
    return _told({"persona": count}, {"persona": out})["persona"]


class _Ids:
    """Ids so far; they must differ."""

    def __init__(self) -> None:
        self._seen = Hashes()

    def check(self, given_id: str | None) -> None:
        if given_id is not None and not self._seen.add(hash_of(given_id)):
            raise UserError(f"id {given_id}: two different texts have it, expected one")


def _pool_texts(paths: Sequence[str], columns: Columns) -> Iterator[PoolText]:
    if columns.profile:
        for texts in _rows(paths, columns):
            yield PoolText(texts.profile, texts.given_id)
        return
    if columns.id:
        raise UserError(f"--id {columns.id}: expected --columns too")
    for path in paths:
        yield from read_pool_file(path)


def _rows(paths: Sequence[str], columns: Columns) -> Iterator[_Texts]:
    """The rows' texts; each has a profile unless there are columns of a personality."""

    def texts(row: Mapping[str, Any]) -> _Texts:
        profile, personality = joined(row, columns.profile), joined(row, columns.personality)
        return _Texts(
            checked_text(profile),
            checked_text(personality) if personality else "",
            None if columns.id is None else given_id(row[columns.id], columns.id),
        )

    for path in paths:
        yield from converted(read_records(path, columns.all), texts)


@contextmanager
def _new_lines(out: str) -> Iterator[Callable[[str], object]]:
    """A function that writes a line of a file, which is there when the block ends."""
    folder, _, name = out.rpartition("/")
    try:
        with (
            new_file(Store(folder or ("/" if out.startswith("/") else ".")), name) as target,
            target.open("w", encoding="utf-8", newline="\n") as file,
        ):
            yield file.write
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror or error})") from error


def _require_some(count: TextCount, paths: Sequence[str]) -> None:
    if not count.read:
        raise UserError(f"{', '.join(paths)}: no persona there, expected some text")


def _told(counts: Mapping[Any, TextCount], files: Mapping[Any, str]) -> dict[str, TextReport]:
    """The reports by kind of text, after they were shown."""
    reports: dict[str, TextReport] = {name: count.report() for name, count in counts.items()}
    for name, report in reports.items():
        say(
            f"{files[name]}: {report.kept} texts, {report.repeated} exact repeats left out",
            out=files[name],
            kind=name,
            **asdict(report),
        )
    if not telling_json():
        console.print(reports_table(reports))
    return reports
