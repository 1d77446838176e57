"""Whose fault it is that a file cannot be read or written: the one classifier of the storage."""

from __future__ import annotations

import errno

import aiohttp
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    NoCredentialsError,
    PartialCredentialsError,
    SSOError,
    TokenRetrievalError,
)

from aloe.errors import UserError, WorldFault

_FULL = {errno.ENOSPC: "disk full", errno.EDQUOT: "disk quota spent", errno.EROFS: "read-only disk"}
"""Somebody has to see to it."""
_SAID_FULL = ("No space left on device", "PytorchStreamWriter failed writing")
"""How libraries that raise no OSError (safetensors, torch) say the same."""
_GONE = (
    *(errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH),
    *(errno.ENOTCONN, errno.ENETDOWN, errno.EHOSTDOWN, errno.ENODEV, errno.ENXIO, errno.EREMOTEIO),
)
"""A network disk, or S3, that may come back."""
_SHORT = (
    *(errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EAGAIN, errno.ENOLCK),
    *(errno.EBUSY, errno.ETXTBSY, errno.EDEADLK),
)
"""The machine has none left for now, or somebody else holds it."""
_BAD_CREDENTIALS = {
    *("ExpiredToken", "ExpiredTokenException", "InvalidToken", "TokenRefreshRequired"),
    *("InvalidAccessKeyId", "SignatureDoesNotMatch", "AuthorizationHeaderMalformed"),
    *("InvalidSecurity", "MissingSecurityHeader", "RequestExpired", "AccountProblem"),
    *("NotSignedUp", "InvalidClientTokenId", "UnrecognizedClientException"),
}
_SPENT = {"QuotaExceeded", "QuotaExceededException", "XMinioStorageFull", "XAmzQuotaExceeded"}
_BUSY = {
    *(
        "RequestTimeout",
        "RequestTimeoutException",
        "OperationAborted",
        "ConditionalRequestConflict",
    ),
    *("SlowDown", "Throttling", "ThrottlingException", "RequestLimitExceeded", "Busy"),
    *("ServiceUnavailable", "InternalError", "TooManyRequests", "IncompleteBody", "BadDigest"),
    *("RequestTimeTooSkewed",),
}
"""What may pass although its status is 400, 403 or 409."""


def fault_of(url: str, done: str, error: Exception) -> UserError | WorldFault:
    """What an error means for who asked; to be raised from it.

    Args:
        done: what could not be done to ``url``: read, written, listed...
    """
    line = f"{url}: cannot be {done} ({' '.join(str(error).split()) or type(error).__name__})"
    cause = error.__cause__ if isinstance(error.__cause__, ClientError) else error
    if isinstance(cause, ClientError):
        return _refusal(line, cause)
    if isinstance(error, FileNotFoundError):
        return UserError(line)
    if isinstance(error, SSOError | TokenRetrievalError | PartialCredentialsError):
        return WorldFault(line, passes=False)
    if isinstance(error, NoCredentialsError | PermissionError):
        return WorldFault(line, passes=False) if "://" in url else UserError(line)
    if isinstance(error, BotoCoreError | aiohttp.ClientError | TimeoutError | ConnectionError):
        return WorldFault(line, passes=True)
    return disk_fault(url, done, error) or UserError(line)


def disk_fault(url: str, done: str, error: Exception) -> WorldFault | None:
    """That a disk is full, read-only or gone, or the machine short, if an error means that."""
    line = f"{url}: cannot be {done} ({' '.join(str(error).split()) or type(error).__name__})"
    if _is_full(error):
        return WorldFault(line, passes=False)
    if isinstance(error, OSError) and error.errno in (*_GONE, *_SHORT):
        return WorldFault(line, passes=True)
    return None


def _is_full(error: Exception) -> bool:
    if isinstance(error, OSError) and error.errno in _FULL:
        return True
    return any(words in str(error) for words in _SAID_FULL)


def _refusal(line: str, error: ClientError) -> UserError | WorldFault:
    """What S3 answered: its code counts before its status."""
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    code = error.response.get("Error", {}).get("Code", "")
    untold = status == 400 and code in ("", "400")  # a HEAD has no body: mostly its token's
    if code in _BAD_CREDENTIALS or code in _SPENT or status == 507 or untold:
        return WorldFault(line, passes=False)
    if code in _BUSY or status >= 500 or status in (408, 429):
        return WorldFault(line, passes=True)
    return WorldFault(line, passes=False) if status in (401, 403) else UserError(line)
