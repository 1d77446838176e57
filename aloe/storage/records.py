"""Small JSON files of a run: what is none of this version, or is broken, is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache, partial
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from aloe.errors import UserError
from aloe.storage.store import Store

T = TypeVar("T")

_UNLIKE = (TypeError, KeyError, ValueError, AttributeError, IndexError, RecursionError)


def read_record(
    store: Store, name: str, what: str, into: Callable[[Any], T], remove: str | None = None
) -> T:
    """What ``into`` makes of the value of a JSON file.

    Args:
        what: the file is, for the error.
        into: may raise what it likes where the value is not as it should be.
        remove: name of what to remove to begin anew; the file itself if it is not given.

    Raises:
        FileNotFoundError: nothing is there.
        UserError: it is no such file of this version.
    """
    url, remedy = store.url(name), store.url(name if remove is None else remove)
    return parse_record(url, store.read_bytes(name), what, into, remedy)


def parse_record(
    url: str, data: bytes | str, what: str, into: Callable[[Any], T], remove: str
) -> T:
    """`read_record` of a file that is read."""
    try:
        return into(json.loads(data))
    except _UNLIKE as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"{url}: not {what} of this version ({reason:.200}); use another run.dir, or remove "
            f"{remove}"
        ) from error


def run_record(store: Store) -> dict[str, Any]:
    """Versions, commit, seed and date of a run (`aloe.provenance`); empty if it has not begun."""
    name = "run.json"
    if not store.exists(name):
        return {}
    return read_record(store, name, "a record of a run", partial(fitting, dict))


def fitting(kind: Any, values: Any) -> Any:
    """The values, after a look whether they are those of a dataclass or of any other type.

    Raises:
        ValueError: they are not.
    """
    try:
        _adapter(kind).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the value"
        raise ValueError(f"{place}: {first['msg']}") from error
    return values


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)
