"""The language in which people are written and talk (``language``)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from typing import Any

_TAG = re.compile(
    r"(?P<code>[a-z]{2,3})(?:[-_](?P<script>[a-z]{4}))?(?:[-_](?P<region>[a-z]{2}))?",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Language:
    """One language, and how it is written or where, if that was said."""

    name: str
    """What prompts call it, such as German, or Portuguese as in Brazil."""
    tag: str
    """Its BCP 47 tag, such as de or pt-BR."""

    @property
    def code(self) -> str:
        """The tag without script and region."""
        return self.tag.partition("-")[0]


ENGLISH = Language("English", "en")


@cache
def language_of(text: str) -> Language:
    """The language of a tag (``de``, ``pt-BR``, ``zh-Hant``) or of an English name (``German``).

    Raises:
        ValueError: ISO 639 has no such language, ISO 15924 no such script or ISO 3166 no such
            region.
    """
    wanted = " ".join(text.split())
    if wanted.casefold() in ("en", "english"):
        return ENGLISH
    # A name as it is written comes first: Ga is a language of Ghana, ga is Irish.
    names = _names()
    if wanted in names:
        return names[wanted]
    if tag := _TAG.fullmatch(wanted):
        return _tagged(text, tag)
    folded = {name.casefold(): language for name, language in names.items()}
    if wanted.casefold() in folded:
        return folded[wanted.casefold()]
    common = [name for name, language in folded.items() if len(language.code) == 2]
    near = [*get_close_matches(wanted.casefold(), common), *get_close_matches(wanted, folded)]
    hint = f"; did you mean {folded[near[0]].name}?" if near else ""
    raise ValueError(f"{text!r} is no language, expected a name or tag as German or pt-BR{hint}")


def _tagged(text: str, tag: re.Match[str]) -> Language:
    import pycountry

    code = tag["code"].lower()
    found = pycountry.languages.get(**{"alpha_2" if len(code) == 2 else "alpha_3": code})
    if found is None:
        raise ValueError(f"{text!r} is no language, expected a name or tag as German or pt-BR")
    language = _language(found)
    name, parts = language.name, [language.tag]
    if tag["script"]:
        script = pycountry.scripts.get(alpha_4=tag["script"].title())
        if script is None:
            raise ValueError(f"{text!r}: {tag['script']} is no script, expected one as in zh-Hant")
        name, parts = f"{name} in {script.name} script", [*parts, script.alpha_4]
    if tag["region"]:
        region = pycountry.countries.get(alpha_2=tag["region"].upper())
        if region is None:
            raise ValueError(f"{text!r}: {tag['region']} is no region, expected one as in pt-BR")
        name = f"{name} as in {getattr(region, 'common_name', region.name)}"
        parts = [*parts, region.alpha_2]
    return Language(name, "-".join(parts))


@cache
def _names() -> dict[str, Language]:
    """Languages by each of their names; the widely used ones, which have two letters, win."""
    import pycountry

    found: dict[str, Language] = {}
    for record in sorted(pycountry.languages, key=lambda record: not hasattr(record, "alpha_2")):
        language = _language(record)
        for name in (record.name, language.name, *_other_names(record)):
            found.setdefault(name, language)
    return found


def _other_names(record: Any) -> list[str]:
    names = [record.common_name] if hasattr(record, "common_name") else []
    if hasattr(record, "alpha_2") and hasattr(record, "inverted_name"):
        names.append(record.inverted_name.partition(",")[0])  # Greek, Modern (1453-)
    return names


def _language(record: Any) -> Language:
    # Swahili (macrolanguage) is what everybody calls Swahili.
    name = record.name.partition(" (")[0] or record.name
    return Language(name, getattr(record, "alpha_2", record.alpha_3))
