"""What an import found, for people and machines: rows, lengths, repeats, languages."""

from __future__ import annotations

import random
from array import array
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from rich import box
from rich.table import Table

from aloe.personas.duplicates import Repeats
from aloe.personas.languages import language_of
from aloe.personas.lexicon import Kind, off_topic

_QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
_SAMPLE = 10_000
"""Texts, drawn by seed, that are looked at more closely."""
_LENGTHS = {"0": "shortest", "0.5": "median", "1": "longest"}
_LANGUAGES_SHOWN = 8


@dataclass(frozen=True)
class TextReport:
    """Numbers of the texts of one file that was written."""

    read: int
    """Texts read, repeats included."""
    kept: int
    """Distinct texts, written in the order in which they were read first."""
    repeated: int
    """Texts left out because the very same text was read before."""
    near_repeats: int
    """Texts kept although one with nearly the same words is there; an estimate."""
    examined: int
    """Texts kept that languages and topics were looked at of: all, or a sample of them."""
    off_topic: int | None
    """Of these, profiles that seem to name a trait, or personalities an occupation; None of whole
    personas, which may do both."""
    characters: dict[str, float]
    """Quantiles of the lengths of the texts kept, by ``0`` to ``1``."""
    languages: dict[str, int]
    """Those examined by language, most frequent first, see `aloe.personas.languages`."""


@dataclass
class TextCount:
    """Takes texts in, one after the other."""

    kind: Kind | None
    read: int = 0
    _repeats: Repeats = field(default_factory=Repeats)
    _lengths: array[int] = field(default_factory=lambda: array("L"))
    _sample: list[str] = field(default_factory=list)
    _draw: random.Random = field(default_factory=lambda: random.Random(0))
    _near: int = 0

    def add(self, text: str) -> bool:
        """Count a text; returns whether it is kept, as it was not there before."""
        self.read += 1
        if not self._repeats.first_seen(text):
            return False
        self._near += self._repeats.nearly_seen(text)
        self._lengths.append(len(text))
        if len(self._sample) < _SAMPLE:
            self._sample.append(text)
        elif (place := self._draw.randrange(len(self._lengths))) < _SAMPLE:
            self._sample[place] = text
        return True

    def report(self) -> TextReport:
        """Of all texts so far; at least one was kept."""
        kind = self.kind
        strays = None
        if kind is not None:
            strays = sum(off_topic(kind, text) is not None for text in self._sample)
        lengths = np.quantile(np.array(self._lengths), _QUANTILES, method="inverted_cdf")
        return TextReport(
            read=self.read,
            kept=len(self._lengths),
            repeated=self.read - len(self._lengths),
            near_repeats=self._near,
            examined=len(self._sample),
            off_topic=strays,
            characters={
                f"{q:g}": int(length) for q, length in zip(_QUANTILES, lengths, strict=True)
            },
            languages=dict(Counter(map(language_of, self._sample)).most_common()),
        )


def reports_table(reports: Mapping[str, TextReport]) -> Table:
    """One column for each kind of text that was imported."""
    table = Table(box=box.SIMPLE, pad_edge=False)
    table.add_column("texts", no_wrap=True)
    for name in reports:
        table.add_column(name, justify="right", overflow="fold")
    found = list(reports.values())
    table.add_row("read", *(f"{report.read:,}" for report in found))
    table.add_row("kept", *(f"{report.kept:,}" for report in found))
    table.add_row("exact repeats, left out", *(f"{report.repeated:,}" for report in found))
    table.add_row("near repeats (estimate)", *(f"{report.near_repeats:,}" for report in found))
    if any(report.examined < report.kept for report in found):
        table.add_row("of which a sample was examined", *(f"{r.examined:,}" for r in found))
    if any(report.off_topic is not None for report in found):
        strays = ["" if report.off_topic is None else f"{report.off_topic:,}" for report in found]
        table.add_row("may be off topic", *strays)
    lengths = zip(*(report.characters.items() for report in found), strict=True)
    for row in lengths:  # of each quantile
        share = row[0][0]
        label = _LENGTHS.get(share, f"{float(share):.0%} have at most")
        table.add_row(f"characters: {label}", *(f"{length:,.0f}" for _, length in row))
    table.add_row("languages (a guess)", *(_told(report.languages) for report in found))
    return table


def _told(languages: Mapping[str, int]) -> str:
    first = list(languages.items())[:_LANGUAGES_SHOWN]
    rest = sum(languages.values()) - sum(count for _, count in first)
    told = [f"{name} {count:,}" for name, count in first]
    return "\n".join([*told, f"others {rest:,}"] if rest else told)
