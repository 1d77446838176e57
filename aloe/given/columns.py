"""Which columns of a file's rows are wanted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aloe.errors import UserError

Row = dict[str, Any]
Place = str
"""Where a row stands, such as ``FILE:LINE``."""
Record = Row | ValueError
"""A row, or what is wrong with it."""


class WantedColumns:
    """Those that are wanted of files that may not have all of them."""

    def __init__(self, path: str, required: Sequence[str], optional: Sequence[str]) -> None:
        self._path, self.required = path, tuple(dict.fromkeys(required))
        self.optional = tuple(name for name in dict.fromkeys(optional) if name not in required)

    def of_table(self, path: str, there: Sequence[str]) -> list[str]:
        """Those that a table has.

        Raises:
            UserError: it lacks one that is required, or has one twice.
        """
        if not there:
            raise UserError(f"{path}: no columns there, expected their names in the first line")
        for name in self.required:
            if name not in there:
                raise UserError(f"{path}: no column {name}, expected one of {', '.join(there)}")
        found = [*self.required, *(name for name in self.optional if name in there)]
        if not found:
            wanted = f"one of {', '.join(self.optional)}" if self.optional else "--columns"
            raise UserError(f"{path}: expected {wanted}; there are {', '.join(there)}")
        twice = next((name for name in found if list(there).count(name) > 1), None)
        if twice is not None:
            raise UserError(f"{path}: two columns {twice}, expected one")
        return found

    def of_object(self, value: object) -> Record:
        """The columns of a JSON object."""
        if not isinstance(value, dict):
            return ValueError("expected a JSON object with these columns")
        for name in self.required:
            if name not in value:
                return ValueError(f"no column {name}, expected one of {', '.join(value)}")
        return {key: value[key] for key in (*self.required, *self.optional) if key in value}
