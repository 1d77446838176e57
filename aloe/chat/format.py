"""A conversation as a checkpoint's tokens and back, by its chat template (design.md, decision 7).

Templates differ in what they take (a system role or none, any order of roles or strict turns), in
what they write around a reply (a space, an empty block of thought, an end of turn) and in whether a
turn is written the same way once another follows. None of that is known by name: it is found out by
rendering short conversations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

from aloe.chat.controls import plain_chat, without_controls
from aloe.chat.message import Message
from aloe.chat.thinking import CLOSING, OPENING
from aloe.errors import UserError

Tokenizer = Any  # of transformers, or vLLM's subclass of it; both are slow to import
Thinking = Literal["off", "keep", "strip"]

_MARK = "\u241e"
"""Stands for a message where the template is looked at; none holds it."""
_ASKED, _TOLD, _SAID, _THOUGHT = (f"{word}{_MARK}" for word in ("asked", "told", "said", "thought"))


@dataclass(frozen=True)
class ChatOptions:
    """How a checkpoint is talked with."""

    template: str | None = None
    """Jinja text in place of the checkpoint's own chat template."""
    thinking: Thinking = "off"
    """``off``: the template is told not to open a thought; ``strip``: thoughts are apart from what
    is said; ``keep``: training rows learn them too."""
    variables: tuple[tuple[str, Any], ...] = ()
    """Further variables of the template."""


class ChatFormat:
    """One checkpoint's way to write conversations."""

    def __init__(
        self, tokenizer: Tokenizer, options: ChatOptions = ChatOptions(), key: str = "models.NAME"
    ) -> None:
        """Look at the template.

        Args:
            key: the part of the configuration that names the checkpoint, for errors.

        Raises:
            UserError: the checkpoint has no chat template, or it cannot be rendered.
        """
        self.tokenizer, self.options = tokenizer, options
        self._choice_ids: dict[tuple[str, ...], dict[str, int]] = {}
        if not (options.template or getattr(tokenizer, "chat_template", None)):
            name = getattr(tokenizer, "name_or_path", "the checkpoint")
            raise UserError(
                f"{key}: {name} has no chat template (a base model?), expected one in "
                f"{key}.chat_template"
            )
        thinks = options.thinking != "off"
        self._variables = {"enable_thinking": thinks, "thinking": thinks, **dict(options.variables)}
        try:
            self._render([_user(_ASKED)], opened=True)
        except _refusals() as error:
            raise UserError(f"{key}.chat_template: cannot be rendered: {_line(error)}") from error

    # What the template takes.

    @cached_property
    def takes_system(self) -> bool:
        """Whether there is a system role; if not, its text goes before the first user message."""
        return self._renders([_system(_TOLD), _user(_ASKED)], (_TOLD, _ASKED))

    @cached_property
    def takes_any_order(self) -> bool:
        """Whether roles may follow each other in any order."""
        twice = [_user(_ASKED), _user(_TOLD)]
        assistant_first = [_assistant(_SAID), _user(_ASKED)]
        return self._renders(twice, (_ASKED, _TOLD)) and self._renders(
            assistant_first, (_SAID, _ASKED)
        )

    def shaped(self, messages: Sequence[Message]) -> list[Message]:
        """The conversation as the template takes it.

        One rule for templates that refuse it as it is: the system text stands before the first user
        message, messages of one role that follow each other become one, and an assistant that
        speaks first answers an empty message.
        """
        found: list[dict[str, Any]] = [dict(message) for message in messages]
        if not self.takes_any_order:
            found = _alternating(found)
        if not self.takes_system and found and found[0]["role"] == "system":
            told, *found = found
            if not found or found[0]["role"] != "user":
                found = [_user(""), *found]
            asked = found[0]["content"]
            found[0] = _user(f"{told['content']}\n\n{asked}" if asked else told["content"])
        return found  # type: ignore[return-value]

    # Prompts.

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """Tokens of the conversation up to where the assistant answers."""
        return self._ids(self._opened(self._plain(messages)))

    def head_and_tails(
        self,
        messages: Sequence[Message],
        replies: Sequence[str],
        ended: Sequence[bool],
        reasonings: Sequence[str] = (),
    ) -> tuple[list[int], list[list[int]]]:
        """Tokens of a prompt, and of each reply to it.

        Head and tail are the template's own tokens of the same messages, up to and with the end of
        turn, whose place is empty where the reply did not end itself.

        Args:
            ended: whether each reply said its end of turn.
            reasonings: what was thought before each; learned with ``thinking: keep`` alone.
        """
        keeps = self.options.thinking == "keep" and any(reasonings)
        plain = self._plain(messages)
        head = self._opened(plain)
        if self.leaves_thought_open and not keeps:
            # Nothing is learned of the thought that the prompt has opened: as in a later prompt.
            head = self._render([*plain, _assistant(_SAID)], opened=False).partition(_SAID)[0]
        head_ids = self._ids(head)
        tails = []
        for number, (reply, whole) in enumerate(zip(replies, ended, strict=True)):
            before = self._before_reply(plain, head, reasonings[number] if keeps else "")
            said = before + without_controls(reply, self.tokenizer)
            tail = self._after(head, head_ids, said)
            tails.append([*tail, self.end_of_turn] if whole else tail)
        return head_ids, tails

    def _before_reply(self, plain: list[dict[str, Any]], head: str, thought: str) -> str:
        """What the template writes between a prompt and its reply."""
        reply: dict[str, Any] = _assistant(_SAID)
        thought = without_controls(thought, self.tokenizer).replace(_MARK, " ")
        if thought:
            reply["reasoning_content"] = _THOUGHT
        text = self._render([*plain, reply], opened=False)
        before = text[len(head) :].partition(_SAID)[0] if text.startswith(head) else ""
        if not thought:
            return before
        if _THOUGHT in before:
            return before.replace(_THOUGHT, thought)
        opening = "" if self.opens_thought else f"{OPENING}\n"
        return f"{opening}{thought}\n{CLOSING}\n\n"

    def _after(self, head: str, head_ids: list[int], said: str) -> list[int]:
        """Tokens of a text that follows a prompt."""
        whole = self._ids(head + said)
        if whole[: len(head_ids)] == head_ids:
            return whole[len(head_ids) :]
        return self._ids(said)  # a token across both: the prompt's are what the engine sees

    def choice_ids(self, choices: tuple[str, ...]) -> dict[str, int]:
        """Token id of each choice as the first token of a reply.

        As the template has it after a prompt, where that is one token; else as it is by itself:
        some tokenizers write another one at the begin of a text than within it.

        Raises:
            ValueError: a choice is not one token.
        """
        if choices in self._choice_ids:
            return self._choice_ids[choices]
        asked: list[Message] = [{"role": "user", "content": _ASKED}]
        _, tails = self.head_and_tails(asked, choices, [False] * len(choices))
        if any(len(tail) != 1 for tail in tails):
            tails = [self._ids(choice) for choice in choices]
        for choice, ids in zip(choices, tails, strict=True):
            if len(ids) != 1:
                raise ValueError(f"choice {choice!r} is {len(ids)} tokens, expected 1")
        found = {choice: ids[0] for choice, ids in zip(choices, tails, strict=True)}
        self._choice_ids[choices] = found
        return found

    # Turns.

    @cached_property
    def end_of_turn(self) -> int:
        """The token with which a reply ends: what the template writes after it, else EOS."""
        text = self._render([_user(_ASKED), _assistant(_SAID)], opened=False)
        after = self._ids(text.rpartition(_SAID)[2].lstrip(" \n"))
        if after and after[0] in self._special_ids:
            return after[0]
        return int(self.tokenizer.eos_token_id)

    @cached_property
    def opens_thought(self) -> bool:
        """Whether the template itself opens the thought that an answer begins with."""
        head = self._render([_user(_ASKED)], opened=True).rstrip()
        return head.endswith(OPENING)

    @property
    def leaves_thought_open(self) -> bool:
        """Whether an answer begins within a thought."""
        return self.opens_thought and self.options.thinking != "off"

    def without_thinking(self) -> ChatFormat:
        """The same for answers before which nothing is thought."""
        if self.options.thinking == "off":
            return self
        return ChatFormat(self.tokenizer, replace(self.options, thinking="off"))

    @cached_property
    def grows(self) -> bool:
        """Whether a later prompt begins with an earlier one and its reply, token for token."""
        first: Any = [_system(_TOLD), _user(_ASKED)]
        said = "Well said."
        head, (tail,) = self.head_and_tails(first, [said], [True])
        more: Any = [_assistant(said), _user("And then?")]
        later = self.prompt_ids([*first, *more])
        return later[: len(head) + len(tail)] == [*head, *tail]

    def between(self, last: int, user: str) -> list[int]:
        """Tokens from the end of a reply to where the next one begins.

        Args:
            last: the reply's last token; an end of turn that the policy said is not said again.
            user: the message in between.
        """
        said = without_controls(user.replace(_MARK, " "), self.tokenizer)
        chat = [_user("."), _assistant(_SAID), _user(said)]
        ids = self._ids(self._opened(chat).partition(_SAID)[2])
        return ids[1:] if ids and ids[0] == last else ids

    # Rendering.

    def _plain(self, messages: Sequence[Message]) -> list[dict[str, Any]]:
        return list(map(dict, self.shaped(plain_chat(messages, self.tokenizer))))

    def _opened(self, plain: Sequence[Mapping[str, Any]]) -> str:
        """The conversation up to where the assistant speaks."""
        text = self._render(plain, opened=True)
        if self.opens_thought and self.options.thinking == "off":
            return f"{text.rstrip()}\n\n{CLOSING}\n\n"
        return text

    def _ids(self, text: str) -> list[int]:
        # The template has written what begins a text; the tokenizer must not do so again.
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def _render(self, messages: Sequence[Mapping[str, Any]], opened: bool) -> str:
        text: str = self.tokenizer.apply_chat_template(
            list(messages),
            tokenize=False,
            add_generation_prompt=opened,
            **({"chat_template": self.options.template} if self.options.template else {}),
            **self._variables,
        )
        return text

    def _renders(self, messages: Sequence[Mapping[str, Any]], kept: Sequence[str]) -> bool:
        """Whether the template takes these messages and writes all of them."""
        try:
            text = self._render(messages, opened=True)
        except _refusals():
            return False
        return all(word in text for word in kept)

    @cached_property
    def _special_ids(self) -> set[int]:
        added = getattr(self.tokenizer, "added_tokens_decoder", {})
        marked = {number for number, token in added.items() if token.special}
        return marked | set(self.tokenizer.all_special_ids)


def _alternating(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for message in messages:
        if found and found[-1]["role"] == message["role"]:
            both = (found[-1]["content"], message["content"])
            found[-1] = {"role": message["role"], "content": "\n\n".join(both)}
        else:
            found.append(dict(message))
    start = 1 if found and found[0]["role"] == "system" else 0
    if len(found) > start and found[start]["role"] == "assistant":
        found.insert(start, _user(""))
    return found


def _system(text: str) -> dict[str, Any]:
    return {"role": "system", "content": text}


def _user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def _assistant(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def _refusals() -> tuple[type[Exception], ...]:
    """What rendering a template may raise: its own refusals, and what its expressions do."""
    from jinja2 import TemplateError

    return TemplateError, TypeError, ValueError, LookupError, AttributeError


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".partition("\n")[0]
