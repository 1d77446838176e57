"""Who uses the engines of a pool: they live as long as somebody does, in whatever run.

Each user renews its lease on them. The last one out closes them; the lease of one that was killed
runs out, and then the engines end themselves.
"""

from __future__ import annotations

import threading
import time
import uuid
from typing import Any

LEASE_S = 40.0
"""An engine that nobody has renewed for so long has no user any more."""
_RENEW_S = 5.0
_JOIN_S = 5.0
_CLOSE_WITHIN_S = 30.0


class Lease:
    """One user's hold on some engines; renewed by a thread until it ends."""

    def __init__(self) -> None:
        self._user = uuid.uuid4().hex
        self._held: list[Any] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)
        self._thread.start()

    def hold(self, replica: Any, is_new: bool) -> bool:
        """Hold an engine from now on; returns False if it is closing: there will be another one.

        Args:
            is_new: this user has started it.
        """
        import ray

        try:
            joined = ray.get(replica.renew.remote(self._user), timeout=0 if is_new else _JOIN_S)
        except ray.exceptions.GetTimeoutError:
            joined = True  # it is not placed, or only starting: it reads the lease when it does
        except ray.exceptions.RayActorError:
            joined = False
        if joined:
            self._held = [*self._held, replica]
        return bool(joined)

    def end(self) -> None:
        """Give the engines back; those that nobody else uses close, and are gone."""
        import ray

        self._over.set()
        leaving = {replica.leave.remote(self._user): replica for replica in self._held}
        if not leaving:
            return
        # One that does not answer is not even placed: it ends when nobody has renewed its lease.
        left, _ = ray.wait(list(leaving), num_returns=len(leaving), timeout=_CLOSE_WITHIN_S)
        for answer in left:
            if _was_last(answer):
                ray.kill(leaving[answer])

    def _renew(self) -> None:
        while not self._over.wait(_RENEW_S):
            for replica in self._held:
                replica.renew.remote(self._user)


class Users:
    """An engine's side: who holds it. Times are monotonic seconds."""

    def __init__(self, now: float | None = None) -> None:
        begun = time.monotonic() if now is None else now
        # Who has started it, or used it before it was restarted, has time to say so.
        self._until = {"": begun + LEASE_S}
        self._closing = False

    def renew(self, user: str, now: float) -> bool:
        """Whether the user may count on the engine for `LEASE_S`; not if it is closing."""
        if self._closing:
            return False
        self._until.pop("", None)
        self._until[user] = now + LEASE_S
        return True

    def called(self, now: float) -> None:
        """Somebody's call is answered: that is a user too, whose driver may be held up."""
        if not self._closing:
            self._until[""] = now + LEASE_S

    def leave(self, user: str, now: float) -> bool:
        """Whether nobody is left: then it closes."""
        self._until.pop(user, None)
        self._until.pop("", None)
        return self.nobody(now)

    def nobody(self, now: float) -> bool:
        """Whether all leases have run out: then it closes."""
        self._closing = self._closing or not any(until > now for until in self._until.values())
        return self._closing


def _was_last(answer: Any) -> bool:
    import ray

    try:
        return bool(ray.get(answer))
    except ray.exceptions.RayActorError:
        return False  # gone already
