"""Persona pools: read, grow, filter, and pair into personas."""

from aloe.personas.importing import import_pool, read_pool_files
from aloe.personas.stage import check_personas, expand_personas

__all__ = ["check_personas", "expand_personas", "import_pool", "read_pool_files"]
