"""Prompts are Jinja files beside the stage that owns them."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from aloe.schema import stable_id


@cache
def _environment() -> Environment:
    # Prompts are text for a model, not HTML: nothing is escaped here, the report escapes.
    return Environment(
        loader=FileSystemLoader(Path(__file__).parent.parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,  # noqa: S701
    )


def render(template: str, **values: Any) -> str:
    """Fill a prompt such as ``dialogue/prompts/user_system.jinja``; persona text is data only."""
    return _environment().get_template(template).render(**values).strip()


def prompts_version(folder: str) -> str:
    """Hash of all templates in a folder such as ``dialogue/prompts``: other prompts, other data."""
    files = sorted((Path(__file__).parent.parent / folder).glob("*.jinja"))
    return stable_id([(file.name, file.read_text(encoding="utf-8")) for file in files])
