"""A configuration from a YAML file and the command line, and back to YAML."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import fsspec
import yaml
from pydantic import ValidationError

from aloe.chat.files import with_templates
from aloe.config import Config
from aloe.errors import UserError
from aloe.prompt_folders import with_prompts
from aloe.strict_yaml import complaint, line_of, parse_yaml

_SHORT = {"resume": "run.resume"}
"""Keys that the command line also takes without their section."""


def parse_overrides(arguments: list[str]) -> dict[str, Any]:
    """Turn ``["--dialogue.turns", "4"]`` or ``["--dialogue.turns=4"]`` into nested values.

    Values are read as YAML, so ``3``, ``true``, ``null`` and ``[a, b]`` have their types. Of a key
    that is given twice the last holds; mappings are laid over each other.

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
            value, _ = parse_yaml(text)
        except yaml.YAMLError as error:
            raise UserError(
                f"argument {flag}: {text!r} is not a YAML value ({complaint(error)[1]})"
            ) from error
        node = tree
        *parents, leaf = _SHORT.get(key, key).split(".")
        for part in parents:
            node = node.setdefault(part, {})
            if not isinstance(node, dict):
                raise UserError(f"argument {flag}: {part!r} was already given a plain value")
        before = node.get(leaf)
        if isinstance(before, dict) and not isinstance(value, dict):
            raise UserError(f"argument {flag}: {leaf!r} was already given as {before!r:.60}")
        node[leaf] = _merge(before, value) if isinstance(before, dict) else value
    return tree


def load_config(path: str, overrides: list[str] | None = None) -> Config:
    """Read a YAML file, lay command-line overrides over it and check the result.

    Raises:
        UserError: the file is missing or no YAML mapping, or a key is unknown or of the wrong type.
    """
    try:
        with fsspec.open(path, "rt", encoding="utf-8") as file:
            values, node = parse_yaml(file.read())
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 (byte {error.start + 1})") from error
    except yaml.YAMLError as error:
        line, words = complaint(error)
        raise UserError(f"{_place(path, line)}: not valid YAML ({words})") from error
    if not isinstance(values, dict):
        kind = type(values).__name__
        raise UserError(f"{_place(path, 1)}: expected a mapping of sections, got {kind}")
    over = parse_overrides(overrides or [])
    try:
        config = Config.model_validate(_merge(values, over))
    except ValidationError as error:
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        location = error.errors()[0]["loc"]
        line = None if _holds(over, location) else line_of(node, location)
        raise UserError(f"{_place(path, line)}: {_explain(error)}{more}") from error
    return with_prompts(with_templates(config))


def dump_config(config: Config) -> str:
    """The resolved configuration as YAML that `load_config` reads back to the same value."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _place(path: str, line: int | None) -> str:
    return path if line is None else f"{path}:{line}"


def _holds(values: dict[str, Any], location: Sequence[str | int]) -> bool:
    """Whether the last part of a location was said there; names of variants are passed over."""
    inner: Any = values
    for part in location:
        if not isinstance(inner, dict):
            return True
        inner = inner.get(str(part), inner)
    return inner is not values and not isinstance(inner, dict)


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
