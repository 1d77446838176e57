"""What the simulator wraps around a user's message, and how long that message may be.

What a policy says is never touched: it is kept as it was said.
"""

from __future__ import annotations

import re

from aloe.roles.sentences import first_sentences, is_finished

_LABEL = re.compile(
    r"\s*(?:\*\*)?(?:user|me|you|friend)(?:\*\*)?\s*[:\uff1a](?:\*\*)?[ \t]*", re.IGNORECASE
)
_DIRECTION = re.compile(r"\*[^*\n]{1,80}\*|\([^()\n]{1,80}\)|\uff08[^\uff08\uff09\n]{1,80}\uff09")
"""Stage directions: ``*smiles*`` or ``(laughs)``, at an end of the message or alone on a line."""
_QUOTES = (
    ('"', '"'),
    ("\u201c", "\u201d"),
    ("\u201e", "\u201c"),
    ("\u201e", "\u201d"),
    ("\u00ab", "\u00bb"),
    ("\u00bb", "\u00ab"),
    ("\u300c", "\u300d"),
    ("\u300e", "\u300f"),
)


def user_message(text: str, max_sentences: int, language: str = "en") -> str:
    """A user's message without the simulator's framing, at most that many sentences long.

    Framing is a speaker's label at the very start, quotes around the whole, and stage directions
    at its ends or alone on a line. All else stays as it was said: emphasis, lists, sums, unfinished
    sentences. Empty if nothing is left.

    Args:
        language: ISO 639 code of what is written.
    """
    message = _unquoted(_LABEL.sub("", text, count=1) if _LABEL.match(text) else text)
    message = _without_directions(message)
    return first_sentences(message, max_sentences, language)


def _unquoted(text: str) -> str:
    plain = text.strip()
    for opening, closing in _QUOTES:
        inner = plain[1:-1]
        around = len(plain) > 1 and plain[0] == opening and plain[-1] == closing
        if around and opening not in inner and closing not in inner:
            return inner.strip()
    return plain


def _without_directions(text: str) -> str:
    lines = [line for line in text.split("\n") if not _DIRECTION.fullmatch(line.strip())]
    plain = "\n".join(lines).strip()
    while (match := _DIRECTION.match(plain)) and match[0][0] == "*" and _stands_apart(plain, match):
        plain = plain[match.end() :].lstrip()
    for match in reversed(list(_DIRECTION.finditer(plain))):
        if match[0][0] != "*" or match.end() != len(plain) or not _follows_a_sentence(plain, match):
            break
        plain = plain[: match.start()].rstrip()
    return plain


def _stands_apart(text: str, match: re.Match[str]) -> bool:
    """Whether a direction at the start is no emphasised word of the sentence."""
    after = text[match.end() :].lstrip()
    return not after or after[0].isupper() or (not after[0].isalpha() and after[0] not in ",.;:!?")


def _follows_a_sentence(text: str, match: re.Match[str]) -> bool:
    before = text[: match.start()].rstrip()
    return is_finished(before)
