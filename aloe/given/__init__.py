"""What people bring: files of theirs, row by row, and the conversations in them."""

from aloe.given.records import converted, read_lines, read_records
from aloe.given.texts import joined

__all__ = ["converted", "joined", "read_lines", "read_records"]
