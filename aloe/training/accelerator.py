"""The one place that makes OpenRLHF 0.11.2 run where there is no CUDA device.

OpenRLHF asks for CUDA by name in a handful of places. `prepare` changes exactly those, each with
its reason; where there is a GPU, it only lets torch compile more often. It runs before anything of
OpenRLHF is imported, in the driver and in every worker: `aloe.training.worker` calls it on import.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, NoReturn

from aloe.errors import UserError
from aloe.machine import has_gpu, prefer_own_programs

_STUBBED = {
    "flash_attn": (),
    "flash_attn.bert_padding": ("index_first_axis", "pad_input", "rearrange", "unpad_input"),
    "flash_attn.utils": (),
    "flash_attn.utils.distributed": ("all_gather",),
}

WORKER_ENV = {"env_vars": {"OMP_WAIT_POLICY": "PASSIVE"}}
"""Ray runtime environment of workers. Threads of a CPU's matrix product spin while they wait for
each other; when other processes want the cores, a step then takes 10 times as long and more."""


def has_flash_attention() -> bool:
    """Whether flash attention can run in this process: the package and a GPU are there."""
    installed = "flash_attn" in sys.modules or importlib.util.find_spec("flash_attn") is not None
    return has_gpu() and installed and not _is_stub("flash_attn")


def precision() -> str:
    """OpenRLHF's name of the parameters' type; bfloat16 was 20 times slower on an AVX2 CPU."""
    return "bf16" if has_gpu() else "fp32"


def attention() -> str:
    """Attention implementation that transformers is asked for."""
    return "flash_attention_2" if has_flash_attention() else "sdpa"


def tree_attention() -> str:
    """Attention that takes the mask of a tree (`aloe.training.token_tree`)."""
    return "flex_attention" if has_gpu() else "sdpa"


def check_compiler() -> None:
    """Whether DeepSpeed can build its CPU optimizer, which it does at first use.

    Raises:
        UserError: there is no GPU, and g++ or ninja is missing.
    """
    if has_gpu():
        return
    for tool, remedy in (("g++", "apt-get install g++"), ("ninja", "pip install ninja")):
        if shutil.which(tool) is None:
            raise UserError(
                f"{tool}: not found, but DeepSpeed builds its CPU optimizer with it; {remedy}"
            )


def prepare() -> None:
    """Make this process ready for OpenRLHF; a second call changes nothing."""
    prefer_own_programs()
    if importlib.util.find_spec("flash_attn") is None:
        _stub_flash_attention()
    if has_gpu():
        _compile_for_all_lengths()
        return
    # DeepSpeed would look for an accelerator and may take one that torch was not built for.
    os.environ["DS_ACCELERATOR"] = "cpu"
    _answer_cuda_calls()
    _build_meshes_on_cpu()
    _accept_float32()
    _buffer_on_cpu()


def _stub_flash_attention() -> None:
    # openrlhf.models.ring_attn_utils imports it at the top, although only packing and ring
    # attention call it, and both are off without it.
    def missing(*_: object, **__: object) -> NoReturn:
        raise RuntimeError("flash attention is not installed: no packing, no ring attention")

    for name, functions in _STUBBED.items():
        module = ModuleType(name)
        module.__spec__ = ModuleSpec(name, None)  # importlib.util.find_spec refuses None
        module.__dict__.update(dict.fromkeys(functions, missing))
        sys.modules[name] = module


def _compile_for_all_lengths() -> None:
    # Flex attention is compiled once for the first length and once for any, anew where a mask has
    # one block only, and all that with and without gradients. After 8 of these torch would go on
    # uncompiled, with all scores in memory, and only warn.
    import torch._dynamo

    torch._dynamo.config.recompile_limit = 64


def _is_stub(name: str) -> bool:
    module = sys.modules.get(name)
    return module is not None and module.__spec__ is not None and module.__spec__.loader is None


def _answer_cuda_calls() -> None:
    import torch

    # DeepspeedStrategy.setup_distributed picks a device, all_reduce and all_gather move tensors
    # to it, and save_model waits for it. A CPU build of torch raises at each. Several functions,
    # not one: torch.compile keeps a table of them by identity.
    def set_device(device: object) -> None:
        return None

    def synchronize(device: object = None) -> None:
        return None

    def current_device() -> torch.device:
        return torch.device("cpu")

    # broadcast_to_vllm hands it to the process group's broadcast.
    def current_stream(device: object = None) -> None:
        return None

    for stand_in in (set_device, synchronize, current_device, current_stream):
        setattr(torch.cuda, stand_in.__name__, stand_in)


def _build_meshes_on_cpu() -> None:
    # DeepspeedStrategy.setup_distributed asks for a mesh of "cuda" devices.
    from openrlhf.utils.deepspeed import deepspeed as strategy

    _wrap(
        strategy, "init_device_mesh", lambda original: lambda _, *a, **k: original("cpu", *a, **k)
    )


def _accept_float32() -> None:
    # Actor turns its param_dtype into a torch type here, and only bf16 and fp16 are known.
    import torch
    from openrlhf.utils import utils

    def with_float32(original: Any) -> Any:
        return lambda name: torch.float32 if name == "fp32" else original(name)

    _wrap(utils, "convert_to_torch_dtype", with_float32)


def _buffer_on_cpu() -> None:
    # NaiveReplayBuffer makes a device of f"cuda:{torch.cuda.current_device()}".
    import torch
    from openrlhf.trainer.ppo_utils.replay_buffer import NaiveReplayBuffer

    def on_cpu(original: Any) -> Any:
        def init(self: Any, *arguments: Any, **options: Any) -> None:
            current, torch.cuda.current_device = torch.cuda.current_device, lambda: 0
            try:
                original(self, *arguments, **options)
            finally:
                torch.cuda.current_device = current
            self.target_device = torch.device("cpu")

        return init

    _wrap(NaiveReplayBuffer, "__init__", on_cpu)


def _wrap(module: Any, name: str, make: Callable[[Any], Any]) -> None:
    original = getattr(module, name)
    if not getattr(original, "wrapped_by_aloe", False):
        wrapped = make(original)
        wrapped.wrapped_by_aloe = True
        setattr(module, name, wrapped)
