"""Reading what a model wrote as what a person would type."""

from __future__ import annotations

import re

from aloe.errors import MalformedAnswer

_WORD = re.compile(r"[^\W\d_]+")
_STAGE_DIRECTION = re.compile(r"\*[^*\n]*\*")
_SPEAKER_LABEL = re.compile(r"^\s*(?:user|assistant|me|you|friend|reply)\s*:\s*", re.IGNORECASE)
_SENTENCE_END = re.compile(r"""[.!?…]+["'”’)\]]*(?=\s|$)""")


def words(text: str) -> list[str]:
    """The words of a text, in lower case."""
    return [word.lower() for word in _WORD.findall(text)]


def clean_message(text: str, max_sentences: int) -> str:
    """A chat message without stage directions, speaker label or surrounding quotes.

    Only the first paragraph counts; it is cut to ``max_sentences``, and an unfinished last sentence
    is dropped if a finished one stands before it.

    Raises:
        MalformedAnswer: nothing is left.
    """
    plain = _STAGE_DIRECTION.sub(" ", text)
    plain = _SPEAKER_LABEL.sub("", plain).strip()
    paragraph = " ".join(plain.split("\n\n", 1)[0].split())
    if len(paragraph) > 1 and paragraph[0] == paragraph[-1] == '"':
        paragraph = paragraph[1:-1].strip()
    ends = [match.end() for match in _SENTENCE_END.finditer(paragraph)][:max_sentences]
    message = paragraph[: ends[-1]].strip() if ends else paragraph
    if not any(character.isalnum() for character in message):
        raise MalformedAnswer(f"no message in {text!r:.80}")
    return message
