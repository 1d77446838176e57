"""How this process speaks to S3: the run's settings in the words of s3fs and botocore.

Keys are never among the settings: they come from the environment or the profile.
"""

from __future__ import annotations

from typing import Any

import fsspec
from fsspec import AbstractFileSystem

from aloe.config import StorageConfig

_OUTSIDE: dict[str, Any] = dict(fsspec.config.conf.get("s3", {}))  # FSSPEC_S3 and fsspec's files
_in_use = StorageConfig()

for _protocol in ("s3", "s3a"):  # by name: s3fs is imported when it is needed
    fsspec.register_implementation(_protocol, "aloe.storage.s3_system.CountedS3", clobber=True)

AT_ONCE = 64
"""Connections that one process keeps to one endpoint, and so the files that it reads at once."""


def use_storage(options: StorageConfig) -> None:
    """Make these the settings of every S3 access of this process that does not bring its own.

    Checkpoints and persona files are read with them, and so is whatever calls fsspec itself.
    """
    global _in_use  # a process belongs to one run, as its environment does
    _in_use = options
    fsspec.config.conf["s3"] = s3_options(options)


def storage_in_use() -> StorageConfig:
    """What `use_storage` was told last; the defaults if nothing."""
    return _in_use


def open_fs(url: str, options: StorageConfig | None = None) -> tuple[AbstractFileSystem, str]:
    """File system and path behind a local path or URL; ``options`` None is `storage_in_use`."""
    if not is_s3(url):
        return fsspec.core.url_to_fs(url)
    return fsspec.core.url_to_fs(url, **s3_options(options or _in_use))


def is_s3(url: str) -> bool:
    return url.startswith(("s3://", "s3a://"))


def s3_options(options: StorageConfig) -> dict[str, Any]:
    """Arguments of `s3fs.S3FileSystem`. What is null is left to the environment."""
    client = {
        **_OUTSIDE.get("client_kwargs", {}),
        **({"region_name": options.region} if options.region else {}),
    }
    config = {
        **_OUTSIDE.get("config_kwargs", {}),
        "connect_timeout": options.timeout_s,
        "read_timeout": options.timeout_s,
        "max_pool_connections": AT_ONCE,
        "retries": {"mode": "standard", "total_max_attempts": options.attempts},
        **({"s3": {"addressing_style": "path"}} if options.path_style else {}),
    }
    return {
        **_OUTSIDE,
        "endpoint_url": options.endpoint_url or _OUTSIDE.get("endpoint_url"),
        "profile": options.profile or _OUTSIDE.get("profile"),
        "client_kwargs": client,
        "config_kwargs": config,
        "use_listings_cache": False,  # other processes write into the same folders
    }
