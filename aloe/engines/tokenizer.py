"""How a checkpoint is talked with, seen without its weights."""

from __future__ import annotations

from aloe.chat import ChatFormat, options_of
from aloe.config import VllmModel
from aloe.engines.embedded import PREFIX, check_checkpoint, resolve_checkpoint
from aloe.errors import UserError
from aloe.storage.localize import localize

_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".onnx")


def chat_of(name: str, model: VllmModel) -> ChatFormat | None:
    """The chat format of a model; None where it is an embedded one as it comes.

    Of a checkpoint in a store only what is no weights is fetched.

    Raises:
        UserError: its tokenizer cannot be loaded, or see `aloe.chat.ChatFormat`.
    """
    check_checkpoint(model.path)
    if model.path.startswith(PREFIX):
        if model.chat_template is None:
            return None
        folder = resolve_checkpoint(model.path)
    else:
        folder = localize(model.path, without=_WEIGHTS)
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=model.trust_remote_code)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        line = str(error).strip().partition("\n")[0]
        raise UserError(
            f"models.{name}.path: the tokenizer of {model.path} cannot be loaded ({line})"
        ) from error
    return ChatFormat(tokenizer, options_of(model), f"models.{name}")
