"""Messages between a caller, the fork server and a process that was started: JSON, bytes, files."""

from __future__ import annotations

import json
import os
import socket
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_LENGTHS = struct.Struct("!II")
_WHO = struct.Struct("3i")
"""Process, user and group, as Linux tells them."""
_MOST_FILES = 64


@dataclass(frozen=True)
class Message:
    """What one `send` takes along."""

    words: dict[str, Any]
    payload: bytes
    files: list[int]
    """File descriptors; the receiver's own copies."""


def send(
    connection: socket.socket,
    words: Mapping[str, Any],
    payload: bytes = b"",
    files: Sequence[int] = (),
) -> None:
    """Send one message.

    Raises:
        OSError: the other side is gone.
    """
    head = json.dumps(words).encode()
    lengths = _LENGTHS.pack(len(head), len(payload))
    if files:
        socket.send_fds(connection, [lengths], files)
    else:
        connection.sendall(lengths)
    connection.sendall(head + payload)


def receive(connection: socket.socket) -> Message:
    """Wait for one message.

    Raises:
        OSError: the other side is gone, also in the middle of a message.
    """
    lengths, files, _, _ = socket.recv_fds(connection, _LENGTHS.size, _MOST_FILES)
    lengths += _read(connection, _LENGTHS.size - len(lengths))
    head, payload = _LENGTHS.unpack(lengths)
    words = json.loads(_read(connection, head))
    return Message(words, _read(connection, payload), list(files))


def is_ours(connection: socket.socket) -> bool:
    """Whether the other side is a process of the same user: it may have code run."""
    who = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _WHO.size)
    _, user, _ = _WHO.unpack(who)
    return bool(user == os.getuid())


def _read(connection: socket.socket, number: int) -> bytes:
    parts = []
    while number:
        part = connection.recv(min(number, 1 << 20))
        if not part:
            raise ConnectionResetError("the other side is gone")
        parts.append(part)
        number -= len(part)
    return b"".join(parts)
