"""Folders of prompts that lie on the user's machine (``personas.prompts`` and its like)."""

from __future__ import annotations

from pathlib import Path

import fsspec

from aloe.config import Config
from aloe.errors import UserError

OWNERS = ("personas", "dialogue", "evaluation")
"""Sections of the configuration, and stages, that have prompts."""

_OPTIONAL = {"personas": (), "dialogue": ("user_plan.jinja",), "evaluation": ()}
"""Templates that a folder may lack: the built-in one is used then. Plans are English."""


def built_in_names(owner: str) -> list[str]:
    """File names of the templates that a stage has; a folder in their place has them all."""
    return sorted(file.name for file in built_in_folder(owner).glob("*.jinja"))


def built_in_folder(owner: str) -> Path:
    """Where a stage's own templates lie."""
    return Path(__file__).parent / owner / "prompts"


def with_prompts(config: Config) -> Config:
    """The configuration with the texts of each folder of prompts in place of its name.

    So the run folder holds what the run was made with, and other machines need no folder.

    Raises:
        UserError: a folder cannot be read, or lacks a template.
    """
    changed = {}
    for owner in OWNERS:
        section = getattr(config, owner)
        if section.prompts is None:
            continue
        texts = section.prompts
        if isinstance(texts, str):
            texts = _read(f"{owner}.prompts", texts)
        place = f" in {section.prompts}" if isinstance(section.prompts, str) else ""
        for name in _OPTIONAL[owner]:
            if name not in texts:
                texts = {**texts, name: (built_in_folder(owner) / name).read_text("utf-8")}
        expected = built_in_names(owner)
        for name in expected:
            if name not in texts:
                raise UserError(
                    f"{owner}.prompts: no {name}{place}, expected {', '.join(expected)}"
                )
        changed[owner] = section.model_copy(update={"prompts": texts})
    return config.model_copy(update=changed) if changed else config


def _read(key: str, folder: str) -> dict[str, str]:
    try:
        fs, path = fsspec.core.url_to_fs(folder)
        if not fs.isdir(path):
            raise UserError(f"{key}: {folder} is no folder, expected one with *.jinja files")
        texts: dict[str, str] = {}
        for file in sorted(fs.ls(path, detail=False)):
            name = file.rpartition("/")[2]
            if not name.endswith((".jinja", ".txt")):
                continue
            try:
                texts[name] = fs.cat_file(file).decode("utf-8-sig")
            except UnicodeDecodeError as error:
                raise UserError(
                    f"{key}: {folder}/{name} is not UTF-8 (byte {error.start + 1})"
                ) from error
    except (OSError, ValueError) as error:
        raise UserError(f"{key}: {folder} cannot be read ({error})") from error
    return texts
