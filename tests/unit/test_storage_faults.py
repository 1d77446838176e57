import errno
import os

import pytest
from botocore.exceptions import (
    ClientError,
    ConnectTimeoutError,
    EndpointConnectionError,
    UnauthorizedSSOTokenError,
)
from s3fs.errors import translate_boto_error

from aloe.errors import UserError, WorldFault
from aloe.storage import Store
from aloe.storage.faults import fault_of

S3 = "s3://bucket/run/x"


def answer(status: int, code: str) -> ClientError:
    parts = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(parts, "PutObject")


def translated(error: ClientError, to: type[OSError]) -> OSError:
    found = to(str(error))  # as s3fs does
    found.__cause__ = error
    return found


def both(status: int, code: str) -> tuple[Exception, Exception]:
    """As botocore raises it, and as s3fs does."""
    found = answer(status, code)
    return found, translate_boto_error(found)


CREDENTIALS = ("ExpiredToken", "InvalidToken", "TokenRefreshRequired")
BUSY = ("RequestTimeout", "SlowDown")
SHORT = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EBUSY, errno.ENOTCONN, errno.ENOLCK)
STAYS, PASSES, USER = False, True, None
TABLE = [
    ("/run/x", OSError(errno.ENOSPC, "No space left on device"), STAYS),
    ("/run/x", OSError(errno.EDQUOT, "Disk quota exceeded"), STAYS),
    ("/run/x", OSError(errno.EROFS, "Read-only file system"), STAYS),
    ("/run/x", RuntimeError("PytorchStreamWriter failed writing file data/0"), STAYS),
    ("/run/x", Exception("I/O error: No space left on device (os error 28)"), STAYS),
    ("/run/x", OSError(errno.EIO, "Input/output error"), PASSES),
    ("/run/x", PermissionError(errno.EACCES, "Permission denied"), USER),
    ("/run/x", FileNotFoundError(errno.ENOENT, "No such file"), USER),
    (S3, translated(answer(403, "AccessDenied"), PermissionError), STAYS),
    (S3, translated(answer(403, "ExpiredToken"), PermissionError), STAYS),
    (S3, answer(401, "Unauthorized"), STAYS),
    (S3, translated(answer(503, "SlowDown"), OSError), PASSES),
    (S3, answer(500, "InternalError"), PASSES),
    (S3, answer(429, "TooManyRequests"), PASSES),
    (S3, translated(answer(404, "NoSuchBucket"), FileNotFoundError), USER),
    *((S3, error, STAYS) for code in CREDENTIALS for error in both(400, code)),
    *((S3, error, PASSES) for code in BUSY for error in both(400, code)),
    *((S3, error, PASSES) for error in both(409, "OperationAborted")),
    (S3, answer(400, "400"), STAYS),  # what a HEAD tells of the same
    (S3, answer(400, "QuotaExceeded"), STAYS),
    (S3, answer(507, "InsufficientStorage"), STAYS),
    (S3, answer(400, "InvalidBucketName"), USER),
    (S3, answer(400, "EntityTooLarge"), USER),
    (S3, UnauthorizedSSOTokenError(), STAYS),
    (S3, EndpointConnectionError(endpoint_url="http://127.0.0.1:9"), PASSES),
    (S3, ConnectTimeoutError(endpoint_url="http://127.0.0.1:9"), PASSES),
    (S3, TimeoutError(), PASSES),
    *(("/run/x", OSError(number, os.strerror(number)), PASSES) for number in SHORT),
]


@pytest.mark.parametrize(("url", "error", "passes"), TABLE)
def test_whose_fault_it_is(url, error, passes):
    fault = fault_of(url, "written", error)
    assert str(fault).startswith(f"{url}: cannot be written (")
    assert isinstance(fault, UserError if passes is USER else WorldFault)
    assert getattr(fault, "passes", None) is passes


def test_a_full_disk_is_the_worlds_fault(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(WorldFault, match=r"x: cannot be written \(.*No space left"):
        Store(str(tmp_path)).write_text("x", "text")
    assert not list(tmp_path.iterdir())


def test_a_disk_that_is_read_only_or_gone_is_the_worlds_fault_in_all_that_is_done(
    tmp_path, monkeypatch
):
    store = Store(str(tmp_path))
    store.write_text("x", "text")

    def gone(*_, **__):
        raise OSError(errno.ESTALE, "Stale file handle")

    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.open", gone)
        patch.setattr("pathlib.Path.unlink", gone)  # of what was begun
        with pytest.raises(WorldFault, match="x: cannot be written"):
            store.write_text("x", "other")
    with monkeypatch.context() as patch:
        patch.setattr("fsspec.implementations.local.LocalFileSystem.ls", gone)
        with pytest.raises(WorldFault, match="cannot be listed"):
            store.names("folder")
    assert store.read_text("x") == "text"
