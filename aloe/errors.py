"""Three kinds of fault: the item's, the world's, the user's.

The **item's** (`EngineError`): one call, tree or case cannot be done. It is a row in ``errors``.
The **world's** (`WorldFault`): no item can be done for now, or ever, until somebody sees to it.
Nothing is lost and no row is written; the stage stops (`StageStopped`) and can be gone on with.
The **user's** (`UserError`): bad input, one line, before anything is paid for.
"""

from __future__ import annotations

import os

FAILED, BAD_INPUT, TRY_AGAIN = 1, 2, os.EX_TEMPFAIL
"""Exit codes: a stage failed; bad input; stopped in order (75), the same command goes on."""


class UserError(Exception):
    """Bad input. The message names the file, key or row and says what was expected. Exit code 2."""


class NotResumable(UserError):
    """A stage in the run folder may not be gone on with: ``run.resume`` says so."""


class EngineError(Exception):
    """An engine could not answer one call; the tree that made the call is tried again."""


class MalformedAnswer(EngineError):
    """A model answered something that its prompt does not allow (empty text, broken JSON...)."""


class ThoughtOnly(MalformedAnswer):
    """A model thought until its tokens were spent; another try has more (``thinking_tokens``)."""


class Hopeless(EngineError):
    """An engine could not answer one call, and no other try of it can work."""


class ContextExceeded(Hopeless):
    """The prompt leaves no room for an answer in the model's context."""


class TemplateRefused(Hopeless):
    """The model's chat template does not take this conversation."""


class Poisoned(Hopeless):
    """Engines die of this call."""


class Unanswerable(Hopeless):
    """A server refuses this call alone, whatever the time, while it answers others."""


class WorldFault(Exception):
    """No call can succeed now, whatever it asks: quota, key, route, disk, a server that is down.

    Attributes:
        passes: whether it may pass by itself, so that waiting is worth it (``run.patience_s``).
        after_s: seconds that whoever refuses asks to wait.
    """

    def __init__(self, message: str, passes: bool, after_s: float = 0.0) -> None:
        super().__init__(message, passes, after_s)  # all, so that it survives pickling
        self.passes, self.after_s = passes, after_s

    def __str__(self) -> str:
        return str(self.args[0])


class EngineDied(Exception):
    """An engine is gone: no call can succeed, the stage ends and can be resumed."""


class StageFailed(Exception):
    """A stage ended with more failures than ``run.max_error_rate`` allows. Exit code 1."""


class StageStopped(Exception):
    """A stage stopped in order before its end; the same command goes on. Exit code 75."""


class CallFailed(EngineError):
    """All tries of one call failed.

    Attributes:
        role: who should have spoken.
        kind: class name of the last error.
        call: row of `aloe.schema.CALL` with the tokens of all tries.
    """

    def __init__(self, role: str, kind: str, message: str, call: dict[str, object]) -> None:
        super().__init__(role, kind, message, call)  # all, so that it survives pickling
        self.role, self.kind, self.call = role, kind, call

    def __str__(self) -> str:
        return str(self.args[2])


KNOWN = (UserError, StageFailed, EngineDied, StageStopped, WorldFault)
"""What a command ends with in one line; anything else is a bug and shows its traceback."""


def exit_code(error: Exception) -> int:
    """The exit code of a command that ends with one of `KNOWN`."""
    match error:
        case UserError():
            return BAD_INPUT
        case StageStopped() | WorldFault():
            return TRY_AGAIN
        case _:
            return FAILED
