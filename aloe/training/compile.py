"""What DeepSpeed compiles for a CPU, built once for each environment and kind of CPU."""

from __future__ import annotations

import fcntl
import os
import platform
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

from aloe.cache import cache_folder
from aloe.machine import usable_cores
from aloe.schema import stable_id

_OPS = {"FusedAdamBuilder": "the optimizer", "ShareMemCommBuilder": "reductions between ranks"}
_MADE_OF = ("torch", "deepspeed", "ninja")
_WHOLE = "whole"
"""File beside an operator that has been built to its end, and loaded."""


def operators_folder() -> Path:
    """Where this environment's operators lie on this kind of CPU, built or not.

    They are compiled for the CPU that is there (an image may run on another one) and fit what they
    were compiled with: two environments with other pins have folders of their own.
    """
    made_of = [platform.python_version(), *map(version, _MADE_OF), _cpu_flags()]
    return cache_folder() / "torch_extensions" / stable_id(made_of)


def operators_built() -> bool:
    """Whether nothing is left to compile, asked without importing torch."""
    return len(list(operators_folder().glob(f"*/{_WHOLE}"))) == len(_OPS)


def build_cpu_ops(tell: Callable[[str], None]) -> None:
    """Compile DeepSpeed's CPU operators into the user's cache, or load them from there.

    What is whole is loaded as it is: DeepSpeed would ask ninja in every process, which builds anew
    what an environment at another path has built.

    torch marks a build in progress by a plain file. A process killed while it compiles leaves that
    file behind, and every later one waits for it for ever. Under a lock that dies with its owner,
    such a file can only be a left-over.

    Args:
        tell: called with a sentence for each operator that is not there yet.
    """
    folder = operators_folder()
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["TORCH_EXTENSIONS_DIR"] = str(folder)
    os.environ.setdefault("MAX_JOBS", str(usable_cores()))  # ninja counts the machine's
    from deepspeed.ops.op_builder import OpBuilder, cpu

    with (folder / "build.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for left_over in folder.glob("*/lock"):
            left_over.unlink()
        for name, purpose in _OPS.items():
            builder = getattr(cpu, name)()
            whole = folder / builder.name / _WHOLE
            if whole.exists() and builder.name not in OpBuilder._loaded_ops:
                OpBuilder._loaded_ops[builder.name] = _load(builder.name, whole.parent)
            if not whole.exists():
                tell(f"DeepSpeed compiles {purpose} for this CPU, once (half a minute to two)")
                builder.load(verbose=False)
                whole.touch()


def _load(name: str, folder: Path) -> ModuleType:
    (path,) = folder.glob("*.so")
    spec = spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _cpu_flags() -> list[str]:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return sorted(flags.partition(":")[2].split())
