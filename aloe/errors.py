"""Errors that a user can mend. The command line prints them as one line and exits with code 2."""


class UserError(Exception):
    """Bad input. The message names the file, key or row and says what was expected."""


class NotResumable(UserError):
    """A stage in the run folder may not be gone on with: ``run.resume`` says so."""


class EngineError(Exception):
    """An engine could not answer one call; the tree that made the call is tried again."""


class MalformedAnswer(EngineError):
    """A model answered something that its prompt does not allow (empty text, broken JSON...)."""


class EngineDied(Exception):
    """An engine is gone: no call can succeed, the stage ends and can be resumed."""


class StageFailed(Exception):
    """A stage ended with more failures than ``run.max_error_rate`` allows. Exit code 1."""


class CallFailed(EngineError):
    """All tries of one call failed.

    Attributes:
        role: who should have spoken.
        kind: class name of the last error.
        call: row of `aloe.schema.CALL` with the tokens of all tries.
    """

    def __init__(self, role: str, kind: str, message: str, call: dict[str, object]) -> None:
        super().__init__(message)
        self.role, self.kind, self.call = role, kind, call
