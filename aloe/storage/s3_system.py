"""s3fs as this project uses it; fsspec opens every ``s3://`` path of the process with it."""

from __future__ import annotations

from typing import Any

from fsspec.asyn import sync_wrapper
from s3fs import S3FileSystem

from aloe.storage.traffic import count_client


class CountedS3(S3FileSystem):  # type: ignore[misc]
    """Requests are counted, and tried again by botocore alone."""

    # s3fs would try botocore's tries again, twice nested: a silent server would hold us for hours.
    retries = 1
    _counted: Any = None

    async def set_session(self, refresh: bool = False, kwargs: Any = None) -> Any:
        """The botocore client, made at the first call."""
        client = await super().set_session(refresh)
        if client is not self._counted:
            count_client(client)
            self._counted = client
        return client

    _connect = set_session
    connect = sync_wrapper(set_session)
