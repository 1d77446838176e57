"""A configuration from a YAML file and the command line, and back to YAML."""

from __future__ import annotations

from typing import Any

import fsspec
import yaml
from pydantic import ValidationError

from aloe.chat.files import with_templates
from aloe.config import Config
from aloe.errors import UserError

_SHORT = {"resume": "run.resume"}
"""Keys that the command line also takes without their section."""


def parse_overrides(arguments: list[str]) -> dict[str, Any]:
    """Turn ``["--dialogue.turns", "4"]`` or ``["--dialogue.turns=4"]`` into nested values.

    Values are read as YAML, so ``3``, ``true``, ``null`` and ``[a, b]`` have their types.

    Raises:
        UserError: an argument is not of that form.
    """
    tree: dict[str, Any] = {}
    rest = list(arguments)
    while rest:
        flag = rest.pop(0)
        if not flag.startswith("--") or len(flag) == 2:
            raise UserError(f"argument {flag!r}: expected --section.key VALUE")
        key, equals, text = flag[2:].partition("=")
        if not equals:
            if not rest:
                raise UserError(f"argument {flag}: expected a value after it")
            text = rest.pop(0)
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise UserError(f"argument {flag}: {text!r} is not a YAML value") from error
        node = tree
        *parents, leaf = _SHORT.get(key, key).split(".")
        for part in parents:
            node = node.setdefault(part, {})
            if not isinstance(node, dict):
                raise UserError(f"argument {flag}: {part!r} was already given a plain value")
        node[leaf] = value
    return tree


def load_config(path: str, overrides: list[str] | None = None) -> Config:
    """Read a YAML file, lay command-line overrides over it and check the result.

    Raises:
        UserError: the file is missing or no YAML mapping, or a key is unknown or of the wrong type.
    """
    try:
        with fsspec.open(path, "rt") as file:
            values = yaml.safe_load(file)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from error
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected a mapping of sections, got {type(values).__name__}")
    try:
        config = Config.model_validate(_merge(values, parse_overrides(overrides or [])))
    except ValidationError as error:
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        raise UserError(f"{path}: {_explain(error)}{more}") from error
    return with_templates(config)


def dump_config(config: Config) -> str:
    """The resolved configuration as YAML that `load_config` reads back to the same value."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _explain(error: ValidationError) -> str:
    first = error.errors()[0]
    # The loc of a union member holds its tag too (models.NAME.vllm.path).
    key = ".".join(str(part) for part in first["loc"]) or "config"
    if first["type"] == "extra_forbidden":
        return f"{key}: unknown key"
    if first["type"] in ("missing", "value_error"):
        return f"{key}: {first['msg']}"
    return f"{key}: {first['msg']}, got {first['input']!r:.60}"


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        both = isinstance(old, dict) and isinstance(value, dict)
        merged[key] = _merge(old, value) if both else value  # type: ignore[arg-type]
    return merged
