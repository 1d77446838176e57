"""How each model of a configuration is talked with."""

from __future__ import annotations

from aloe.chat.format import ChatOptions
from aloe.config import Config, VllmModel
from aloe.config.speakers import Frozen


def options_of(model: VllmModel) -> ChatOptions:
    """Those of a model that is served here."""
    variables = tuple(sorted(model.chat_template_kwargs.items()))
    return ChatOptions(model.chat_template, model.thinking, variables)


def policy_options(config: Config) -> ChatOptions:
    """Those of the checkpoint that is trained: of the model that serves it.

    That is the unguided assistant's, if it is of that checkpoint; else any other model of it.
    """
    for model in (config.models[config.roles.unguided], *config.models.values()):
        if isinstance(model, VllmModel) and model.path == config.training.base:
            return options_of(model)
    return ChatOptions()


def talked_with(model: VllmModel, options: ChatOptions) -> VllmModel:
    """The same engine, for a checkpoint that is talked with in this way."""
    return model.model_copy(
        update={
            "chat_template": options.template,
            "chat_template_kwargs": Frozen(options.variables),
            "thinking": options.thinking,
        }
    )
