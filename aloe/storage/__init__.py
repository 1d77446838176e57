"""Where a run lies: a folder over fsspec, local or S3."""

from aloe.storage.manifest import Manifest, Usage, load_manifest, require_stage, stage_manifest
from aloe.storage.store import Store, localize

__all__ = [
    "Manifest",
    "Store",
    "Usage",
    "load_manifest",
    "localize",
    "require_stage",
    "stage_manifest",
]
