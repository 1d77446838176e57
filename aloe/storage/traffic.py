"""What this process asked of S3: requests by kind, bytes of objects read and written."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

_requests: Counter[str] = Counter()
_bytes: Counter[str] = Counter()


@dataclass(frozen=True)
class Traffic:
    """Counts since the process began, or between two moments (`-`)."""

    requests: Counter[str] = field(default_factory=Counter)
    """HTTP requests by operation (GetObject, ListObjectsV2...), each try of one counted."""
    read: int = 0
    """Bytes of objects that were answered."""
    written: int = 0
    """Bytes of objects that were sent."""

    @property
    def total(self) -> int:
        """Requests of all operations."""
        return self.requests.total()

    def __sub__(self, before: Traffic) -> Traffic:
        return Traffic(
            self.requests - before.requests, self.read - before.read, self.written - before.written
        )


def traffic() -> Traffic:
    """The counts of this process so far."""
    return Traffic(_requests.copy(), _bytes["read"], _bytes["written"])


def count_client(client: Any) -> None:
    """Count what a botocore client does from now on; again is no harm."""
    events = client.meta.events
    events.register("before-send.s3", _sent, unique_id="aloe-sent")
    events.register("response-received.s3", _received, unique_id="aloe-received")


def _sent(event_name: str, request: Any, **_: Any) -> None:
    operation = event_name.rpartition(".")[2]
    _requests[operation] += 1
    if operation in ("PutObject", "UploadPart"):
        _bytes["written"] += int(request.headers.get("Content-Length") or 0)


def _received(event_name: str, response_dict: dict[str, Any] | None = None, **_: Any) -> None:
    answered = response_dict is not None and response_dict["status_code"] in (200, 206)
    if answered and event_name.endswith(".GetObject"):
        assert response_dict is not None
        _bytes["read"] += int(response_dict["headers"].get("content-length") or 0)
