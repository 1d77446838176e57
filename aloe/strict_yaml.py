"""YAML that means what a reader sees: no key twice, no octal or sexagesimal numbers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NoReturn

import yaml

_LEADING_ZERO = re.compile(r"[-+]?0[0-9_]+")
_SEXAGESIMAL = re.compile(r"[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?")


class _Loader(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            line = key.start_mark.line + 1
            if key.value in seen and key.tag != "tag:yaml.org,2002:merge":
                _refuse(key, f"{key.value}: stands twice, the first time in line {seen[key.value]}")
            seen[key.value] = line
        return super().construct_mapping(node, deep)

    def construct_number_or_text(self, node: yaml.ScalarNode) -> Any:
        text = node.value
        if node.style is None:
            if _LEADING_ZERO.fullmatch(text):
                _refuse(node, f"{text}: expected a number without a leading zero, or quotes")
            if _SEXAGESIMAL.fullmatch(text):
                _refuse(node, f"{text}: expected a plain number, or quotes")
        kind = node.tag.rpartition(":")[2]
        return getattr(self, f"construct_yaml_{kind}")(node)


for _kind in ("int", "float", "str"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_kind}", _Loader.construct_number_or_text)


def parse_yaml(text: str) -> tuple[Any, yaml.Node | None]:
    """The value of a YAML document, and its nodes for `line_of`.

    Raises:
        yaml.YAMLError: not YAML, a key twice in one mapping, or a number that YAML 1.1 reads as
            octal or sexagesimal; `complaint` puts it into words.
    """
    loader = _Loader(text.removeprefix("\ufeff"))
    try:
        node = loader.get_single_node()
        return (None if node is None else loader.construct_document(node)), node
    finally:
        loader.dispose()


def complaint(error: yaml.YAMLError) -> tuple[int | None, str]:
    """The line of what is wrong, from 1, and one line of words."""
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    words = getattr(error, "problem", None) or str(error)
    return (mark.line + 1 if mark else None), " ".join(words.split())


def line_of(node: yaml.Node | None, path: Sequence[str | int]) -> int | None:
    """Line, from 1, of the innermost part of ``path`` that the document holds.

    Parts that it does not hold are passed over: they may be the name of a variant.
    """
    line = None
    for part in path:
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                if key.value == str(part):
                    line, node = key.start_mark.line + 1, value
                    break
        elif isinstance(node, yaml.SequenceNode) and part in range(len(node.value)):
            node = node.value[int(part)]
            line = node.start_mark.line + 1
    return line


def _refuse(node: yaml.Node, problem: str) -> NoReturn:
    raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
