"""What the simulator wraps around a user's message, and how long that message may be.

What a policy says is never touched: it is kept as it was said.
"""

from __future__ import annotations

import re
from unicodedata import category

import regex

from aloe.roles.sentences import first_sentences, is_finished

_LABEL = re.compile(
    r"\s*(?P<mark>(?:\*\*)?)(?P<who>user|me|you|friend)(?:\*\*)?\s*[:\uff1a](?:\*\*)?[ \t]*",
    re.IGNORECASE,
)
_MARKED = re.compile(r"\*[^*\n]{1,80}\*|\([^()\n]{1,80}\)|\uff08[^\uff08\uff09\n]{1,80}\uff09")
"""What may be a stage direction: ``*smiles*`` or ``(laughs)``."""
_GESTURES = (
    "smiles|smirks|grins|laughs|chuckles|giggles|snickers|sighs|nods|shrugs|winks|waves|"
    "blushes|frowns|pauses|gasps|yawns|sobs|cries|whispers|mumbles|mutters|grumbles|groans|"
    "snorts|sniffs|hums|hugs|claps|cheers|bows|beams|hesitates|smiling|smirking|grinning|"
    "laughing|chuckling|giggling|sighing|nodding|shrugging|winking|waving|blushing|frowning|"
    "pausing|yawning|sobbing|whispering|l\u00e4chelt|lacht|seufzt|nickt|grinst|winkt|"
    "zwinkert|sourit|rit|soupire|sonr\u00ede|r\u00ede|suspira|asiente|sorride|sospira|"
    "annuisce|sorri|glimlacht|zucht|knikt|grijnst|"
    "\u0443\u043b\u044b\u0431\u0430\u0435\u0442\u0441\u044f|"
    "\u0441\u043c\u0435\u0451\u0442\u0441\u044f|"
    "\u0432\u0437\u0434\u044b\u0445\u0430\u0435\u0442|\u043a\u0438\u0432\u0430\u0435\u0442|"
    "\u7b11|\u5fae\u7b11|\u5927\u7b11|\u82e6\u7b11|\u53f9\u6c14|\u70b9\u5934|\u8038\u80a9|"
    "\u305f\u3081\u606f"
)
_GESTURES_WITH = (
    "looks|leans|shakes|rolls|raises|takes|sits|stands|turns|tilts|scratches|clears|crosses|"
    "points|sips|stretches|wipes|reaches|walks|thinks|glances|stares|rubs|pours|looking|"
    "leaning|shaking|rolling|raising|taking|sitting|turning|tilting|scratching|pointing|"
    "sipping|stretching|glancing|staring|rubbing"
)
"""Those that are other words as well where nothing follows."""
_DIRECTION = regex.compile(
    rf"(?:\p{{Ll}}+ly )?(?:(?:{_GESTURES})|(?:{_GESTURES_WITH})(?= (?!like\b)))"
    r"(?:,? [\p{L}\p{M}'\u2019, -]+)?[.\u2026]*"
)
_BEGUN_LARGE = regex.compile(rf"(?i:{_GESTURES}) \p{{Ll}}+ly")
"""``Smiles warmly``; other directions that begin with a large letter may be titles."""
_BEGINS_SPEECH = "\"'\u201c\u2018\u201e\u00ab\u300c\u300e\u00bf\u00a1"
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
    at its ends or alone on a line: a gesture that is known as one, between asterisks or brackets.
    All else stays as it was said: emphasis, titles, lists, sums, unfinished sentences. Empty if
    nothing is left.

    Args:
        language: ISO 639 code of what is written.
    """
    message = _without_directions(_unquoted(_unlabelled(text)))
    return first_sentences(message, max_sentences, language)


def _unlabelled(text: str) -> str:
    label = _LABEL.match(text)
    if label is None:
        return text
    said = text[label.end() :]
    certain = label["mark"] or not said.strip()
    begins = said[:1].isspace() or _begins_a_sentence(said)
    # ``You: a novel`` is a title, and what a message says of a user may begin with a number.
    by_itself = label["who"].lower() == "user" and not said[:1].isdecimal()
    return said if certain or begins or by_itself else text


def _begins_a_sentence(text: str) -> bool:
    first = text[:1]
    return (first.isalpha() and not first.islower()) or (first != "" and first in _BEGINS_SPEECH)


def _unquoted(text: str) -> str:
    plain = text.strip()
    for opening, closing in _QUOTES:
        inner = plain[1:-1]
        around = len(plain) > 1 and plain[0] == opening and plain[-1] == closing
        if around and opening not in inner and closing not in inner:
            return inner.strip()
    return plain


def _without_directions(text: str) -> str:
    lines = [line for line in text.split("\n") if not _is_direction(line.strip())]
    plain = "\n".join(lines).strip()
    while (match := _MARKED.match(plain)) and _is_aside(match[0]):
        after = plain[match.end() :].lstrip()
        if not _stands_apart(after):
            break
        plain = after
    for match in reversed(list(_MARKED.finditer(plain))):
        before = plain[: match.start()].rstrip()
        if not _is_aside(match[0]) or match.end() != len(plain) or not is_finished(before):
            break
        plain = before
    return plain


def _is_aside(marked: str) -> bool:
    """Whether it is a direction also beside other words: what stands in brackets there is said."""
    return marked[0] == "*" and _is_direction(marked)


def _is_direction(text: str) -> bool:
    if not _MARKED.fullmatch(text):
        return False
    inner = text[1:-1].strip()
    return bool(_DIRECTION.fullmatch(inner) or _BEGUN_LARGE.fullmatch(inner))


def _stands_apart(after: str) -> bool:
    """Whether a direction at the start is no emphasised word of the sentence."""
    another = _MARKED.match(after)
    if another and _is_aside(another[0]):
        return _stands_apart(after[another.end() :].lstrip())
    return not after or _begins_a_sentence(after) or category(after[0]) == "So"
