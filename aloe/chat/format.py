"""A conversation as a checkpoint's tokens and back, by its chat template (design.md, decision 7).

Templates differ in what they take (a system role or none, any order of roles or strict turns), in
what they write around a reply (a space, an empty block of thought, an end of turn) and in whether a
turn is written the same way once another follows. None of that is known by name: it is found out by
rendering short conversations.

What was sampled stays as it was sampled. Where a template writes white space before a reply, it is
written once before a reply that begins with it, and not at all before one that does not: then the
tokens are those of the policy, and not of `apply_chat_template`, which knows no such reply.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, NamedTuple

from aloe.chat.controls import control_tokens, plain_chat, spelled_controls, without_controls
from aloe.chat.message import Message
from aloe.chat.template import (
    ASKED,
    SAID,
    THOUGHT,
    Template,
    Tokenizer,
    Turn,
    assistant,
    system,
    user,
)
from aloe.chat.thinking import CLOSING, OPENING

Thinking = Literal["off", "keep", "strip"]

_BARE = "\udc1f"
"""Stands before a reply: the template's white space in front of it is taken away again."""


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


class _Ending(NamedTuple):
    """What a template writes behind a reply."""

    before: str
    """Between the reply and its end of turn."""
    mark: str
    """The end of turn; empty where there is none."""


class ChatFormat:
    """One checkpoint's way to write conversations."""

    def __init__(
        self, tokenizer: Tokenizer, options: ChatOptions = ChatOptions(), key: str = "models.NAME"
    ) -> None:
        """Look at the template.

        Args:
            key: the part of the configuration that names the checkpoint, for errors.

        Raises:
            UserError: the checkpoint has no chat template, it cannot be rendered, or it leaves out
                what is said.
        """
        self.tokenizer, self.options = tokenizer, options
        self._choice_ids: dict[tuple[str, ...], dict[str, int]] = {}
        thinks = options.thinking != "off"
        variables = {"enable_thinking": thinks, "thinking": thinks, **dict(options.variables)}
        self._template = Template(tokenizer, options.template, variables, key)

    # What the template takes.

    @property
    def takes_system(self) -> bool:
        """Whether there is a system role; if not, its text goes before the first user message."""
        return self._template.takes_system

    @property
    def takes_any_order(self) -> bool:
        """Whether roles may follow each other in any order."""
        return self._template.takes_any_order

    def shaped(self, messages: Sequence[Message]) -> list[Message]:
        """The conversation as the template takes it, see `Template.shaped`.

        Replies are without what the template writes around each of them.
        """
        found = self._template.shaped(messages)
        for message in found:
            if message["role"] == "assistant":
                inner = message["content"].removeprefix(self._space)
                message["content"] = inner.removesuffix(self._ending.before)
        return found  # type: ignore[return-value]

    # Prompts.

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """Tokens of the conversation up to where the assistant answers.

        Raises:
            TemplateRefused: the template does not take it.
        """
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
        turn, whose place is empty where the reply did not end itself. White space that the template
        writes before a reply is in the tail only as far as the reply begins with it. What it writes
        between a reply and its end of turn is there, once. A block of thought that was not learned
        is in the head, empty, as in a later prompt.

        Args:
            ended: whether each reply said its end of turn.
            reasonings: what was thought before each; learned with ``thinking: keep`` alone.

        Raises:
            TemplateRefused: the template does not take it.
        """
        keeps = self.options.thinking == "keep" and any(reasonings)
        plain = self._plain(messages)
        head = self._opened(plain)
        if self.options.thinking != "off" and not keeps:
            head = self._thoughtless(plain, head)
        head_ids = self._ids(head)
        tails = []
        for number, (reply, whole) in enumerate(zip(replies, ended, strict=True)):
            before = self._thought(plain, head, reasonings[number]) if keeps else ""
            said = self._without_controls(reply)
            end = self._ending.before
            if whole and not said.endswith(end):
                said += end
            tail = self._after(head, head_ids, before + said)
            tails.append([*tail, self.end_of_turn] if whole else tail)
        return head_ids, tails

    def choice_ids(self, choices: tuple[str, ...]) -> dict[str, int]:
        """Token id of each choice as the first token of a reply.

        As the template has it after a prompt, where that is one token; else as it is by itself:
        some tokenizers write another one at the begin of a text than within it.

        Raises:
            ValueError: a choice is not one token.
        """
        if choices in self._choice_ids:
            return self._choice_ids[choices]
        head = self._opened([user("Which?")])
        head_ids = self._ids(head)
        tails = [self._after(head, head_ids, self._space + choice) for choice in choices]
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
        if self._ending.mark:
            return self._controls[self._ending.mark]
        return int(self.tokenizer.eos_token_id)

    @cached_property
    def opens_thought(self) -> bool:
        """Whether the template itself opens the thought that an answer begins with."""
        return self._template.render([user(ASKED)], opened=True).rstrip().endswith(OPENING)

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
        first: Any = [system("Be brief."), user("How do you do?")]
        said = "Well said."
        head, (tail,) = self.head_and_tails(first, [said], [True])
        more: Any = [assistant(said), user("And then?")]
        later = self.prompt_ids([*first, *more])
        return later[: len(head) + len(tail)] == [*head, *tail]

    def between(self, last: int, text: str, ended: bool = False) -> list[int]:
        """Tokens from the end of a reply to where the next one begins.

        Args:
            last: the reply's last token; an end of turn that the policy said is not said again,
                whichever of the checkpoint's it is.
            text: the user's message in between.
            ended: the reply has ended itself, whatever its last token is.
        """
        chat = [user("."), assistant(SAID), user(self._without_controls(text))]
        after = self._opened(chat).partition(SAID)[2]
        closed = after.startswith("".join(self._ending)) and self._ending.mark
        if closed and (ended or last in self._ends):
            return self._ids(after.removeprefix(self._ending.before))[1:]
        ids = self._ids(after)
        return ids[1:] if ids and ids[0] == last else ids

    # What the template writes around a reply.

    @cached_property
    def _space(self) -> str:
        """White space between a prompt and the reply to it, where the tokenizer sees it."""
        head = self._template.render([user(ASKED)], opened=True)
        text = self._template.render([user(ASKED), assistant(SAID)], opened=False)
        space = text[len(head) :].partition(SAID)[0] if text.startswith(head) else ""
        if space.strip():
            return ""
        head = head.replace(ASKED, "Well?")
        seen = self._ids(f"{head}{space}a") != self._ids(f"{head}{space * 2}a")
        return space if seen else ""

    @cached_property
    def _ending(self) -> _Ending:
        text = self._template.render([user(ASKED), assistant(SAID)], opened=False)
        after = text.rpartition(SAID)[2]
        controls = spelled_controls(self.tokenizer, self._template.written)
        mark = controls.search(after) if controls else None
        return _Ending(after[: mark.start()], mark[0]) if mark else _Ending("", "")

    def _thoughtless(self, plain: list[Turn], head: str) -> str:
        """A prompt to which nothing was thought: the block of thought is empty, or not there."""
        text = self._written([*plain, assistant(SAID)], opened=False)
        start = head.rstrip().removesuffix(OPENING) if self.opens_thought else head
        if text.startswith(start):
            before = text.partition(SAID)[0]
            return before if before[len(start) :].strip() else start
        return f"{start}{OPENING}\n\n{CLOSING}\n\n" if self.opens_thought else head

    def _thought(self, plain: list[Turn], head: str, thought: str) -> str:
        """What stands between a prompt and its reply where thoughts are learned."""
        thought = self._without_controls(thought)
        reply = assistant(SAID)
        if thought:
            reply["reasoning_content"] = THOUGHT
        elif self.opens_thought:
            return f"\n{CLOSING}\n\n"  # a reply is behind a thought that is empty, not within it
        text = self._written([*plain, reply], opened=False)
        before = text[len(head) :].partition(SAID)[0] if text.startswith(head) else ""
        if not thought:
            return before if before.strip() else ""
        if THOUGHT in before:
            return before.replace(THOUGHT, thought)
        opening = "" if self.opens_thought else f"{OPENING}\n"
        return f"{opening}{thought}\n{CLOSING}\n\n"

    # Rendering.

    def _plain(self, messages: Sequence[Message]) -> list[Turn]:
        """The conversation without control tokens, shaped, its replies marked as they were said."""
        found = self._template.shaped(plain_chat(messages, self.tokenizer, self._template.written))
        for message in found:
            if message["role"] == "assistant":
                inner = message["content"].removesuffix(self._ending.before)
                message["content"] = (_BARE if self._space else "") + inner
        return found

    def _opened(self, plain: Sequence[Turn]) -> str:
        """The conversation up to where the assistant speaks."""
        text = self._written(plain, opened=True)
        if self.opens_thought and self.options.thinking == "off":
            return f"{text.rstrip()}\n\n{CLOSING}\n\n"
        return text

    def _written(self, plain: Sequence[Turn], opened: bool) -> str:
        text = self._template.render(plain, opened)
        return text.replace(self._space + _BARE, "").replace(_BARE, "") if self._space else text

    def _after(self, head: str, head_ids: list[int], said: str) -> list[int]:
        """Tokens of a text that follows a prompt."""
        whole = self._ids(head + said)
        if whole[: len(head_ids)] == head_ids:
            return whole[len(head_ids) :]
        return self._ids(said)  # a token across both: the prompt's are what the engine sees

    def _ids(self, text: str) -> list[int]:
        # The template has written what begins a text; the tokenizer must not do so again.
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def _without_controls(self, text: str) -> str:
        return without_controls(text, self.tokenizer, self._template.written)

    @cached_property
    def _controls(self) -> dict[str, int]:
        return control_tokens(self.tokenizer, self._template.written)

    @cached_property
    def _ends(self) -> set[int]:
        """Tokens that may end a turn: a checkpoint names some beside its template's."""
        special = control_tokens(self.tokenizer).values()
        return {self.end_of_turn, *special, *self.tokenizer.all_special_ids}
