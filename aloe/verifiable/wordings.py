"""What a program user says: everyday things, hints at each kind, and praise (issue 19).

Each list has a part for training and one that only evaluations use: what is learned from the first
is measured with the other, so that it is meaning and not a string.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml

Part = Literal["train", "heldout"]

_TEXTS = Path(__file__).parent / "texts"
_PRAISE = "praise"
_SLOT = "{thing}"


@dataclass(frozen=True)
class Topic:
    """Something everyday."""

    says: str
    """A sentence that tells of it."""
    thing: str
    """What a later sentence calls it."""


@cache
def topics(part: Part) -> Sequence[Topic]:
    """What there is to talk of."""
    return tuple(Topic(**item) for item in _read("topics.yaml")[part])


@cache
def wordings(kind: str, part: Part) -> Sequence[str]:
    """Sentences that hint at a kind of `aloe.verifiable.checks.OPPOSITE`."""
    return tuple(_read("hints.yaml")[kind][part])


@cache
def praise(part: Part) -> Sequence[str]:
    """Sentences of somebody who misses nothing."""
    return tuple(_read("hints.yaml")[_PRAISE][part])


def about(sentence: str, thing: str) -> str:
    """A sentence of these lists, said of what the last reply was about."""
    return sentence.replace(_SLOT, thing)


@cache
def wordings_version() -> str:
    """Hash of all of it: other words, other data."""
    texts = [file.read_bytes() for file in sorted(_TEXTS.glob("*.yaml"))]
    return hashlib.sha256(b"\0".join(texts)).hexdigest()[:16]


@cache
def _read(name: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = yaml.safe_load((_TEXTS / name).read_text(encoding="utf-8"))
    return found
