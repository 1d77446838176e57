"""Persona pools: read, grow, filter, and pair into personas; whole personas that are given."""

from aloe.personas.importing import Columns, import_personas, import_pool, import_pools
from aloe.personas.pool_files import read_pool_files
from aloe.personas.stage import check_personas, expand_personas
from aloe.personas.taking import look_at_given
from aloe.personas.whole import read_personas

__all__ = [
    "Columns",
    "check_personas",
    "expand_personas",
    "import_personas",
    "import_pool",
    "import_pools",
    "look_at_given",
    "read_personas",
    "read_pool_files",
]
