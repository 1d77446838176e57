"""Chat templates that lie in files of the user's machine."""

from __future__ import annotations

import fsspec

from aloe.config import Config, VllmModel
from aloe.errors import UserError

_JINJA = ("{{", "{%")
_BYTE_ORDER_MARK = "\ufeff"


def with_templates(config: Config) -> Config:
    """The configuration with the text of each ``chat_template`` in place of its file's name.

    So the run folder holds what the run was made with, and other machines need no file.

    Raises:
        UserError: a file cannot be read, or is no template.
    """
    models = {
        name: model.model_copy(update={"chat_template": _text(name, model.chat_template)})
        if isinstance(model, VllmModel) and model.chat_template
        else model
        for name, model in config.models.items()
    }
    return config.model_copy(update={"models": models})


def _text(name: str, value: str) -> str:
    key = f"models.{name}.chat_template"
    if any(sign in value for sign in _JINJA):
        return value.removeprefix(_BYTE_ORDER_MARK)
    try:
        with fsspec.open(value, "rt", encoding="utf-8-sig") as file:
            text: str = file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{key}: {value} cannot be read ({error})") from error
    if not any(sign in text for sign in _JINJA):
        raise UserError(f"{key}: {value} is no Jinja template, expected {{{{ or {{% in it")
    return text
