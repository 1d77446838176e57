"""Prompts are Jinja files beside the stage that owns them, or a run's own in their place."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from jinja2 import ChoiceLoader, DictLoader, Environment, FileSystemLoader, StrictUndefined
from jinja2.sandbox import ImmutableSandboxedEnvironment

from aloe.config.language import ENGLISH, Language
from aloe.prompt_folders import built_in_folder, built_in_names
from aloe.schema import stable_id

_PACKAGE = built_in_folder("").parent
_ELSEWHERE = "any_language"
"""Folder of what the built-in templates are followed by where people do not talk English."""

Texts = Mapping[str, str]


class Prompts:
    """The templates of a run, and the language in which people are written and talk in it."""

    def __init__(
        self, language: Language = ENGLISH, own: Mapping[str, Texts] | None = None
    ) -> None:
        """Not checked, see `aloe.roles.prompt_checks`.

        Args:
            own: by owner (personas, dialogue, evaluation) all templates by file name, in place of
                the built-in ones.
        """
        self.language = language
        self._own = dict(own or {})

    def render(self, template: str, **values: Any) -> str:
        """Fill a prompt such as ``dialogue/prompts/user_system.jinja``.

        Every template may say ``language`` too. Persona text is data only.
        """
        name = self._place(template)
        filled = self.environment.get_template(name).render(language=self.language.name, **values)
        return filled.strip()

    def own_text(self, owner: str, name: str) -> str | None:
        """A file of the run's own folder as it is; None if it has none of that name."""
        return self._own.get(owner, {}).get(name)

    def version(self, owner: str) -> str:
        """Hash of all templates of an owner and the language: other prompts, other data."""
        texts = self._own.get(owner)
        if texts is None:
            texts = {name: _text(owner, name) for name in built_in_names(owner)}
            if self.language != ENGLISH:
                more = sorted((built_in_folder(owner) / _ELSEWHERE).glob("*.jinja"))
                texts |= {f"{_ELSEWHERE}/{f.name}": _text(owner, _ELSEWHERE, f.name) for f in more}
        told = [] if self.language == ENGLISH else [("language", self.language.name)]
        return stable_id([*sorted(texts.items()), *told])

    def settings(self) -> dict[str, str]:
        """What of the language stands in a stage's settings: nothing as long as it is English."""
        return {} if self.language == ENGLISH else {"language": self.language.tag}

    def options(self, owner: str, choices: tuple[str, ...]) -> str:
        """What is put behind a question that a judge answers in words, see `Request.options`."""
        plain = self.language == ENGLISH and owner not in self._own
        return "" if plain else f"[{'/'.join(choices)}]"

    def __getstate__(self) -> dict[str, Any]:
        return {"language": self.language, "_own": self._own}  # an environment is not pickled

    @cached_property
    def environment(self) -> Environment:
        """Where templates are looked up, the run's own under ``own/``."""
        own = {
            f"own/{owner}/{name}": text
            for owner, texts in self._own.items()
            for name, text in texts.items()
        }
        # Prompts are text for a model, not HTML: nothing is escaped here, the report escapes.
        return _Beside(
            loader=ChoiceLoader([DictLoader(own), FileSystemLoader(_PACKAGE)]),
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            autoescape=False,
        )

    def _place(self, template: str) -> str:
        owner, _, name = template.partition("/prompts/")
        if owner in self._own:
            return f"own/{owner}/{name}"
        if self.language != ENGLISH and (built_in_folder(owner) / _ELSEWHERE / name).exists():
            return f"{owner}/prompts/{_ELSEWHERE}/{name}"
        return template


class _Beside(ImmutableSandboxedEnvironment):
    """Templates include others of their folder by file name."""

    def join_path(self, template: str, parent: str) -> str:
        return template if "/" in template else f"{parent.rpartition('/')[0]}/{template}"


BUILT_IN = Prompts()
"""The built-in templates, where people talk English."""


def render(template: str, **values: Any) -> str:
    """Fill a built-in template, such as ``preferences/card.md.jinja``."""
    return BUILT_IN.render(template, **values)


def _text(owner: str, *names: str) -> str:
    return built_in_folder(owner).joinpath(*names).read_text(encoding="utf-8")
