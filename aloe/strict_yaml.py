"""YAML that means what a reader sees: no key twice, no octal or sexagesimal numbers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NoReturn

import yaml

_LEADING_ZERO = re.compile(r"[-+]?0[0-9_]+")
_SEXAGESIMAL = re.compile(r"[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?")
_MERGE = "tag:yaml.org,2002:merge"
_LINE_END = re.compile("\r\n|[\r\n\x85\u2028\u2029]")
_NO_SUCH_VALUE = (ValueError, AttributeError, KeyError, IndexError, OverflowError, TypeError)
"""What PyYAML raises for a date that does not exist, a number without digits..."""


class _Loader(yaml.SafeLoader):
    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except _NO_SUCH_VALUE:
            if not isinstance(node, yaml.ScalarNode):
                raise
            kind = node.tag.rpartition(":")[2]
            _refuse(node, f"{node.value:.40}: expected a valid {kind}, or quotes")

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Lay what is merged under a mapping's own keys; of several mappings the first counts most.

        PyYAML 6.0.4 goes by the identity of keys, which those of one letter share.
        """
        own = [pair for pair in node.value if pair[0].tag != _MERGE]
        sources = [one for key, value in node.value if key.tag == _MERGE for one in _merged(value)]
        pairs = {_identity(key): (key, value) for key, value in own}
        added: dict[Any, tuple[yaml.Node, yaml.Node]] = {}
        for source in sources:
            self.flatten_mapping(source)
            for key, value in source.value:
                if _identity(key) not in pairs:
                    added.setdefault(_identity(key), (key, value))
        node.value = [*added.values(), *own]

    def construct_number_or_text(self, node: yaml.ScalarNode) -> Any:
        text, kind = node.value, node.tag.rpartition(":")[2]
        if node.style is None or kind != "str":  # a number may be in quotes, if a tag says so
            if _LEADING_ZERO.fullmatch(text):
                _refuse(node, f"{text}: expected a number without a leading zero, or quotes")
            if _SEXAGESIMAL.fullmatch(text):
                _refuse(node, f"{text}: expected a plain number, or quotes")
        return getattr(self, f"construct_yaml_{kind}")(node)

    def check_keys(self, root: yaml.Node) -> None:
        """Refuse keys that stand twice, before merges add those of other mappings to a node's."""
        waiting, seen = [root], set()
        while waiting:
            node = waiting.pop()
            if id(node) in seen:  # by an alias
                continue
            seen.add(id(node))
            if isinstance(node, yaml.MappingNode):
                self._check_mapping(node)
                waiting += [part for pair in node.value for part in pair]
            elif isinstance(node, yaml.SequenceNode):
                waiting += node.value

    def _check_mapping(self, node: yaml.MappingNode) -> None:
        lines: dict[Any, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == _MERGE:
                continue
            # As it is written, and as it is meant: yes and true are one key.
            names = (("text", key.value), ("value", self.construct_object(key)))
            first = next((lines[name] for name in names if name in lines), None)
            if first is not None:
                _refuse(key, f"{key.value}: stands twice, the first time in line {first}")
            lines.update(dict.fromkeys(names, key.start_mark.line + 1))


for _kind in ("int", "float", "str"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_kind}", _Loader.construct_number_or_text)


def parse_yaml(text: str) -> tuple[Any, yaml.Node | None]:
    """The value of a YAML document, and its nodes for `line_of`.

    Raises:
        yaml.YAMLError: not YAML, a key twice in one mapping, a value that is none of its kind, or a
            number that YAML 1.1 reads as octal or sexagesimal; `complaint` puts it into words.
    """
    text = text.removeprefix("\ufeff")
    try:
        loader = _Loader(text)
    except yaml.reader.ReaderError as error:
        _refuse_character(text, error)
    try:
        node = loader.get_single_node()
        if node is None:
            return None, None
        loader.check_keys(node)
        return loader.construct_document(node), node
    except RecursionError:
        raise yaml.MarkedYAMLError(
            problem="nested too deeply", problem_mark=loader.get_mark()
        ) from None
    finally:
        loader.dispose()


def _refuse_character(text: str, error: yaml.reader.ReaderError) -> NoReturn:
    line = len(_LINE_END.findall(text[: error.position]))
    sign = f"U+{ord(text[error.position]):04X}"
    raise yaml.MarkedYAMLError(
        problem=f"the character {sign} is not allowed, expected text",
        problem_mark=yaml.Mark("", error.position, line, 0, None, 0),
    ) from error


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
                if str(part) in (key.value, str(_meaning(key))):
                    line, node = key.start_mark.line + 1, value
                    break
        elif isinstance(node, yaml.SequenceNode) and part in range(len(node.value)):
            node = node.value[int(part)]
            line = node.start_mark.line + 1
    return line


def _merged(node: yaml.Node) -> list[yaml.MappingNode]:
    """The mappings that stand behind a merge key."""
    nodes: list[yaml.Node] = node.value if isinstance(node, yaml.SequenceNode) else [node]
    found = [one for one in nodes if isinstance(one, yaml.MappingNode)]
    if len(found) < len(nodes):
        _refuse(node, "expected a mapping for merging, or a list of them")
    return found


def _identity(key: yaml.Node) -> Any:
    return (key.tag, key.value) if isinstance(key, yaml.ScalarNode) else id(key)


def _meaning(key: yaml.Node) -> Any:
    """The value of a key that is not a text, such as ``~``; pydantic has ``yes`` in places as 1."""
    if not isinstance(key, yaml.ScalarNode):
        return None
    value = _Loader("").construct_object(key)
    return int(value) if isinstance(value, bool) else value


def _refuse(node: yaml.Node, problem: str) -> NoReturn:
    raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
