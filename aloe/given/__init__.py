"""What people bring: files of theirs, row by row, and the conversations in them."""

from aloe.given.conversations import Conversation, read_conversations
from aloe.given.records import converted, read_lines, read_records
from aloe.given.texts import is_missing, joined, text_of

__all__ = [
    "Conversation",
    "converted",
    "is_missing",
    "joined",
    "read_conversations",
    "read_lines",
    "read_records",
    "text_of",
]
