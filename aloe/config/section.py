"""What every block of configuration has in common."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A frozen block of configuration that refuses keys it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    def __hash__(self) -> int:
        # A block may hold mappings, which have no hash of their own.
        return hash((type(self), self.model_dump_json()))
