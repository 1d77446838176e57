"""Where a run lies: a folder over fsspec, local or S3."""

from aloe.storage.files import read_bytes, write_bytes
from aloe.storage.localize import localize
from aloe.storage.manifest import Manifest, Usage, load_manifest, require_stage, stage_manifest
from aloe.storage.s3 import use_storage
from aloe.storage.store import Store, run_store

__all__ = [
    "Manifest",
    "Store",
    "Usage",
    "load_manifest",
    "localize",
    "read_bytes",
    "require_stage",
    "run_store",
    "stage_manifest",
    "use_storage",
    "write_bytes",
]
