"""How a checkpoint is talked with, seen without its weights."""

from __future__ import annotations

from aloe.chat import ChatFormat, ChatOptions, options_of
from aloe.config import VllmModel
from aloe.engines.embedded import PREFIX, check_checkpoint, resolve_checkpoint
from aloe.errors import UserError
from aloe.storage.localize import localize

_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".onnx")


def chat_of(name: str, model: VllmModel) -> ChatFormat | None:
    """The chat format of a model; None where it is an embedded one as it comes.

    Raises:
        UserError: see `checkpoint_chat`.
    """
    options, trusted = options_of(model), model.trust_remote_code
    return checkpoint_chat(f"models.{name}", model.path, options, trusted, f"models.{name}.path")


def checkpoint_chat(
    key: str, path: str, options: ChatOptions, trust_remote_code: bool, path_key: str = ""
) -> ChatFormat | None:
    """The chat format of a checkpoint; None where it is an embedded one as it comes.

    Of a checkpoint in a store only what is no weights is fetched.

    Args:
        key: the part of the configuration that names it, for errors.
        path_key: where its path stands, if that is another.

    Raises:
        UserError: its tokenizer cannot be loaded, or see `aloe.chat.ChatFormat`.
    """
    check_checkpoint(path)
    if path.startswith(PREFIX):
        if options.template is None:
            return None
        folder = resolve_checkpoint(path)
    else:
        folder = localize(path, without=_WEIGHTS)
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        line = str(error).strip().partition("\n")[0]
        raise UserError(
            f"{path_key or key}: the tokenizer of {path} cannot be loaded ({line})"
        ) from error
    return ChatFormat(tokenizer, options, key)
