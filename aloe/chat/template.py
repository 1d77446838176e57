"""A chat template: what it takes, found out by rendering short conversations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from typing import Any

from aloe.chat.message import Message
from aloe.errors import TemplateRefused, UserError

Tokenizer = Any  # of transformers, or vLLM's subclass of it; both are slow to import
Turn = dict[str, Any]
"""A message, and what a template may know besides."""

_MARK = "\udc1e"
"""In what stands for a message where the template is looked at. No text that is rendered holds it:
it is half of a character (see `aloe.chat.characters`)."""
ASKED, TOLD, SAID, THOUGHT, MORE = (
    f"{word}{_MARK}" for word in ("asked", "told", "said", "thought", "more")
)
_SILENCES = ("", "...")
"""What a user says before an assistant that speaks first; some templates refuse an empty text."""


class Template:
    """One checkpoint's chat template, or what stands in its place."""

    def __init__(
        self, tokenizer: Tokenizer, text: str | None, variables: Mapping[str, Any], key: str
    ) -> None:
        """Find out what it takes.

        Args:
            text: Jinja text in place of the checkpoint's own.
            key: the part of the configuration that names the checkpoint, for errors.

        Raises:
            UserError: there is none, or it refuses or drops what people say.
        """
        self._tokenizer, self._text, self._variables = tokenizer, text, variables
        self._parts = False
        own = key.startswith("models.")
        if not (text or getattr(tokenizer, "chat_template", None)):
            name = getattr(tokenizer, "name_or_path", "the checkpoint")
            where = f"one in {key}.chat_template"
            if not own:
                where = "a models.NAME with this path and a chat_template"
            raise UserError(f"{key}: {name} has no chat template (a base model?), expected {where}")
        self._check(f"{key}.chat_template" if own else f"{key}: its chat template")

    def render(self, messages: Sequence[Mapping[str, Any]], opened: bool) -> str:
        """What it makes of the messages.

        Args:
            opened: up to where the assistant speaks.

        Raises:
            TemplateRefused: it does not take them.
        """
        try:
            text: str = self._tokenizer.apply_chat_template(
                [self._in_parts(message) for message in messages] if self._parts else [*messages],
                tokenize=False,
                add_generation_prompt=opened,
                **({"chat_template": self._text} if self._text else {}),
                **self._variables,
            )
        except _refusals() as error:
            raise TemplateRefused(f"{type(error).__name__}: {error}".partition("\n")[0]) from error
        return text

    @cached_property
    def takes_system(self) -> bool:
        """Whether there is a system role; if not, its text goes before the first user message."""
        return self._renders([system(TOLD), user(ASKED)], (TOLD, ASKED))

    @cached_property
    def takes_any_order(self) -> bool:
        """Whether roles may follow each other in any order."""
        before = [system(TOLD)] if self.takes_system else []
        orders = (
            [*before, user(ASKED), user(MORE)],
            [*before, assistant(SAID), user(ASKED)],
            [*before, user(ASKED), assistant(SAID), assistant(MORE), user(ASKED)],
        )
        return all(
            self._renders(order, [message["content"] for message in order])
            and self._renders(order[len(before) :], [m["content"] for m in order[len(before) :]])
            for order in orders
        )

    def shaped(self, messages: Sequence[Message]) -> list[Turn]:
        """The conversation as the template takes it.

        One rule for templates that refuse it as it is: the system text stands before the first user
        message, messages of one role that follow each other become one, and an assistant that
        speaks first answers an empty message (dots, where the template refuses that).
        """
        found: list[Turn] = [dict(message) for message in messages]
        if not self.takes_any_order:
            found = self._alternating(found)
        if not self.takes_system and found and found[0]["role"] == "system":
            told, *found = found
            if not found or found[0]["role"] != "user":
                found = [user(""), *found]
            asked = found[0]["content"]
            found[0] = user(f"{told['content']}\n\n{asked}" if asked else told["content"])
        return found

    @cached_property
    def written(self) -> str:
        """All that it writes of its own, with and without an answer to come."""
        chat = self.shaped(_chat(system(TOLD), user(ASKED), assistant(SAID), user(MORE)))
        text = self.render(chat, opened=True)
        for more in ({}, {"reasoning_content": THOUGHT}):
            with suppress(TemplateRefused):
                text += self.render([user(ASKED), assistant(SAID) | more], opened=False)
        return text

    def _check(self, where: str) -> None:
        """Choose the form of a content, and see that no text is refused or dropped.

        Raises:
            UserError: one is.
        """
        refused: TemplateRefused | None = None
        for self._parts in (False, True):
            try:
                asked = self.render([user(ASKED)], opened=True)
                said = self.render([user(ASKED), assistant(SAID)], opened=False)
            except TemplateRefused as error:
                refused = refused or error
                continue
            if ASKED in asked and ASKED in said and SAID in said:
                break
        else:
            lost = "it leaves out what is said"
            raise UserError(f"{where}: cannot be rendered: {refused or lost}") from refused
        told = _chat(system(TOLD), assistant(SAID), user(ASKED), user(MORE))
        talk = _chat(system(TOLD), user(ASKED), assistant(SAID), user(MORE))
        for chat in (talk, told, told[1:]):
            try:
                text = self.render(self.shaped(chat), opened=True)
            except TemplateRefused as error:
                raise UserError(f"{where}: cannot be rendered: {error}") from error
            for message in chat:
                if message["content"] not in text:
                    role = message["role"]
                    raise UserError(f"{where}: cannot be rendered: it leaves out what {role} says")

    def _in_parts(self, message: Mapping[str, Any]) -> Turn:
        return {**message, "content": [{"type": "text", "text": message["content"]}]}

    def _renders(self, messages: Sequence[Mapping[str, Any]], kept: Sequence[str]) -> bool:
        """Whether the template takes these messages and writes all of them."""
        try:
            text = self.render(messages, opened=True)
        except TemplateRefused:
            return False
        return all(word in text for word in kept)

    @cached_property
    def _silence(self) -> str:
        for text in _SILENCES:
            if self._renders([user(text), assistant(SAID), user(ASKED)], (SAID, ASKED)):
                return text
        return _SILENCES[0]

    def _alternating(self, messages: Sequence[Turn]) -> list[Turn]:
        found: list[Turn] = []
        for message in messages:
            if found and found[-1]["role"] == message["role"]:
                both = (found[-1]["content"], message["content"])
                found[-1] = {"role": message["role"], "content": "\n\n".join(both)}
            else:
                found.append(dict(message))
        start = 1 if found and found[0]["role"] == "system" else 0
        if len(found) > start and found[start]["role"] == "assistant":
            # A system text that goes before it leaves no message empty.
            folded = start and not self.takes_system
            found.insert(start, user("" if folded else self._silence))
        return found


def system(text: str) -> Turn:
    return {"role": "system", "content": text}


def user(text: str) -> Turn:
    return {"role": "user", "content": text}


def assistant(text: str) -> Turn:
    return {"role": "assistant", "content": text}


def _chat(*messages: Turn) -> list[Message]:
    return [{"role": message["role"], "content": message["content"]} for message in messages]


def _refusals() -> tuple[type[Exception], ...]:
    """What rendering a template may raise: its own refusals, and what its expressions do."""
    from jinja2 import TemplateError

    return TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError
