"""Whether a run's own templates can be used: each is filled once as its role will fill it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import TemplateError, TemplateSyntaxError, UndefinedError
from jinja2.meta import find_undeclared_variables

from aloe.config import Config, language_of
from aloe.errors import UserError
from aloe.prompt_folders import OWNERS, with_prompts
from aloe.roles.prompts import Prompts
from aloe.roles.speak import Induced, Persona

_LIFE, _TRAITS, _SAID, _ANSWERED, _OTHER = (
    f"zq-{word}-qz" for word in ("life", "traits", "said", "answered", "other")
)
"""What nobody writes, so that it is seen whether it has come into a prompt."""
_PEOPLE = [
    {"persona": Persona("p", _LIFE, _TRAITS, preferences)} for preferences in ((), ("short",))
]
_CHATS: list[dict[str, Any]] = [
    {"history": [{"role": "user", "content": _SAID}]},
    {
        "history": [
            {"role": "user", "content": _OTHER},
            {"role": "assistant", "content": _ANSWERED},
            {"role": "user", "content": _SAID},
        ]
    },
]
_HINTS = [(_LIFE, None), (None, _TRAITS), (_LIFE, _TRAITS)]
_REPLIES = {"first": _ANSWERED, "second": _OTHER}
_RATED = {"profile": _LIFE, "personality": _TRAITS, "reply": _ANSWERED}
_ASKED = {"noun": "profile", "plural": "profiles"}

_FILLED: dict[str, list[dict[str, Any]]] = {
    "personas/profile_system.jinja": [{}],
    "personas/personality_system.jinja": [{}],
    "personas/ask.jinja": [
        {"count": count, "openings": openings, "last": last, **_ASKED}
        for count in (1, 3)
        for openings in ([], ["Lives in"])
        for last in (False, True)
    ],
    "dialogue/user_system.jinja": _PEOPLE,
    "dialogue/user_start.jinja": [{}],
    "dialogue/user_plan.jinja": [
        {"topic": _SAID, "wish": wish, "praise": praise}
        for wish, praise in (("", False), (_TRAITS, False), ("", True))
    ],
    "dialogue/reply_system.jinja": [{}],
    "dialogue/reply_hint.jinja": [{"hint": Induced(*noted)} for noted in _HINTS],
    "dialogue/inducer_system.jinja": _PEOPLE,
    "dialogue/inducer_question.jinja": _CHATS,
    "dialogue/judge_system.jinja": _PEOPLE,
    "dialogue/judge_question.jinja": [chat | _REPLIES for chat in _CHATS],
    "evaluation/score.jinja": [chat | _RATED for chat in _CHATS],
}
"""Values with which each template is filled for a trial, by owner and file name."""
_SEEN: dict[str, dict[str, str]] = {
    "persona": {"persona.profile": _LIFE, "persona.personality": _TRAITS},
    "history": {"the content of history": _SAID},
    "topic": {"topic": _SAID},
    "first": {"first": _ANSWERED},
    "second": {"second": _OTHER},
    "profile": {"profile": _LIFE},
    "personality": {"personality": _TRAITS},
    "reply": {"reply": _ANSWERED},
}
"""Of each variable what has to be in the prompt, or its reader would not know it."""


def prompts_of(config: Config) -> Prompts:
    """The prompts of a run; its own ones are filled for a trial.

    Raises:
        UserError: a template is missing or cannot be used; names the key and the file.
    """
    config = with_prompts(config)
    own = {
        owner: texts for owner in OWNERS if (texts := getattr(config, owner).prompts) is not None
    }
    prompts = Prompts(language_of(config.language), own)
    for place, trials in _FILLED.items():
        owner, _, name = place.partition("/")
        if owner in own:
            try:
                _check(prompts, owner, name, trials)
            except _Unusable as error:
                raise UserError(f"{owner}.prompts: {name}{error}") from error
    return prompts


class _Unusable(Exception):
    """Why, from the place in the file on."""


def _check(prompts: Prompts, owner: str, name: str, trials: Sequence[Mapping[str, Any]]) -> None:
    environment = prompts.environment
    try:
        source = environment.get_template(f"own/{owner}/{name}")  # compiles what it includes later
        text = environment.loader.get_source(environment, source.name or "")[0]  # type: ignore[union-attr]
        used = find_undeclared_variables(environment.parse(text)) - environment.globals.keys()
    except TemplateSyntaxError as error:
        raise _Unusable(f", line {error.lineno}: {_one_line(error)}") from error
    known = {"language", *trials[0]}
    if unknown := sorted(used - known):
        expected = ", ".join(sorted(known))
        raise _Unusable(f": unknown variable {unknown[0]}, expected some of {expected}")
    for values in trials:
        filled = _fill(prompts, f"{owner}/prompts/{name}", values)
        if not filled:
            raise _Unusable(": comes out empty, expected some text")
        for variable, sign in _signs(values):
            if sign not in filled:
                raise _Unusable(f": nothing is made of {variable}, expected it in the text")


def _fill(prompts: Prompts, template: str, values: Mapping[str, Any]) -> str:
    try:
        return prompts.render(template, **values)
    except TemplateSyntaxError as error:
        raise _Unusable(f": {error.name}, line {error.lineno}: {_one_line(error)}") from error
    except UndefinedError as error:
        raise _Unusable(f": {_one_line(error)}") from error
    except TemplateError as error:
        raise _Unusable(
            f": cannot be filled ({type(error).__name__}: {_one_line(error)})"
        ) from error
    except Exception as error:
        raise _Unusable(
            f": cannot be filled ({type(error).__name__}: {_one_line(error)})"
        ) from error


def _signs(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    if hint := values.get("hint"):
        noted = {"hint.profile": hint.profile, "hint.personality": hint.personality}
        return [(name, sign) for name, sign in noted.items() if sign]
    return [item for name in values for item in _SEEN.get(name, {}).items()]


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
