"""How each model of a configuration is talked with."""

from __future__ import annotations

from aloe.chat.format import ChatOptions
from aloe.config import Config, OpenAIModel, VllmModel
from aloe.config.speakers import Frozen


def options_of(model: VllmModel) -> ChatOptions:
    """Those of a model that is served here."""
    variables = tuple(sorted(model.chat_template_kwargs.items()))
    return ChatOptions(model.chat_template, model.thinking, variables)


def policy_options(config: Config) -> ChatOptions:
    """Those of the checkpoint that is trained: of the model that serves it.

    That is the unguided assistant's, if it is of that checkpoint; else any other model of it; else
    those with which a server is told to serve the unguided assistant.
    """
    found = _of_checkpoint(config, config.training.base)
    unguided = config.models[config.roles.unguided]
    if found is None and isinstance(unguided, OpenAIModel):
        variables = tuple(sorted(unguided.chat_template_kwargs.items()))
        return ChatOptions(None, unguided.thinking or "off", variables)
    return found or ChatOptions()


def checkpoint_options(config: Config, path: str) -> ChatOptions:
    """Those of a checkpoint that is evaluated: of a model with its path, if there is one."""
    return _of_checkpoint(config, path) or ChatOptions()


def _of_checkpoint(config: Config, path: str) -> ChatOptions | None:
    for model in (config.models[config.roles.unguided], *config.models.values()):
        if isinstance(model, VllmModel) and model.path == path:
            return options_of(model)
    return None


def talked_with(model: VllmModel, options: ChatOptions) -> VllmModel:
    """The same engine, for a checkpoint that is talked with in this way."""
    return model.model_copy(
        update={
            "chat_template": options.template,
            "chat_template_kwargs": Frozen(options.variables),
            "thinking": options.thinking,
        }
    )
