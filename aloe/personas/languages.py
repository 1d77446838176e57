"""Which language a text is in, told by its script and its commonest words: a hint, no verdict."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from functools import cache
from itertools import islice

_LETTERS = 64
"""Letters of a text by which its script is told."""
_WORD = re.compile(r"[^\W\d_]+")
_CHARACTERS = 500
"""Characters of a text whose words are looked at."""
_LEAST = 2
"""Common words of a language without which a text is not taken for it."""
_OF_SCRIPT = {
    "hiragana": "ja",
    "katakana": "ja",
    "hangul": "ko",
    "greek": "el",
    "hebrew": "he",
    "thai": "th",
    "georgian": "ka",
    "armenian": "hy",
    "bengali": "bn",
    "tamil": "ta",
    "telugu": "te",
}
_COMMON = {
    "en": "the and of to is in a with for his her who their are has he she they my i on at as",
    "de": "der die und ist in den von zu das mit ein eine nicht sich auf für er sie ich auch als",
    "fr": "le la les de et est un une des en du dans qui que pour il elle je avec au sur son sa",
    "es": "el la los las de y es un una que en por con para su se del al como más le mi muy",
    "pt": "o a os as de e é um uma que em do da no na com para seu sua se por mais não eu ele ela",
    "it": "il la di e è un una che in per con del della lo gli le si non sono ha come al suo sua",
    "nl": "de het een en van is in op te dat met voor zijn niet aan haar hij zij ik ook als er om",
    "sv": "och att det som en på är av för med den till i inte han hon jag om har sin ett de",
    "pl": "i w na z jest się nie do że jak to jego jej ma oraz dla po od przez lubi który ale",
    "tr": "ve bir bu da de için ile çok olarak olan daha gibi ne o kadar sonra ama her ben en",
    "id": "yang dan di untuk dengan ini itu dari pada adalah dalam tidak saya dia ke akan sebagai",
    "vi": "và là của có trong một những cho không được với người các để tôi rất anh này",
    "ru": "и в на не что он она с как его её это по к у я из для но от же о за",
    "uk": "і в на не що він вона з як його її це до та у я із для але від й про за є",
}


def language_of(text: str) -> str:
    """A language's code such as ``de``, else a script such as ``latin``; ``none`` without letters.

    Fourteen languages in Latin and Cyrillic letters are told by their commonest words, of which a
    text must hold two; some by a script of their own.
    """
    script = _script(text)
    if script not in ("latin", "cyrillic"):
        if script == "cjk":
            return "ja" if any("\u3040" <= letter <= "\u30ff" for letter in text) else "zh"
        return _OF_SCRIPT.get(script, script)
    words = _WORD.findall(text[:_CHARACTERS].lower())
    found = Counter(language for word in words for language in _by_word().get(word, ()))
    if not found:
        return script
    language, most = found.most_common(1)[0]
    return language if most >= _LEAST else script


@cache
def _by_word() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for language, words in _COMMON.items():
        for word in words.split():
            found.setdefault(word, []).append(language)
    return found


def _script(text: str) -> str:
    """Script of most of the first letters, such as latin, cyrillic or cjk; none without letters."""
    if text[:_LETTERS].isascii() and any(map(str.isalpha, text[:_LETTERS])):
        return "latin"
    letters = (character for character in text if character.isalpha())
    names = (unicodedata.name(letter, "other") for letter in islice(letters, _LETTERS))
    found = Counter(name.partition(" ")[0].lower() for name in names)
    return max(found, key=lambda name: found[name], default="none")
