"""What DeepSpeed compiles for a CPU, built once per machine."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import platformdirs

_OPS = {"FusedAdamBuilder": "the optimizer", "ShareMemCommBuilder": "reductions between ranks"}


def build_cpu_ops(tell: Callable[[str], None]) -> None:
    """Compile DeepSpeed's CPU operators into the user's cache, or find them there.

    torch marks a build in progress by a plain file. A process killed while it compiles leaves that
    file behind, and every later one waits for it for ever. Under a lock that dies with its owner,
    such a file can only be a left-over.

    Args:
        tell: called with a sentence for each operator that is not there yet.
    """
    folder = Path(platformdirs.user_cache_dir("aloe")) / "torch_extensions"
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["TORCH_EXTENSIONS_DIR"] = str(folder)
    from deepspeed.ops.op_builder import cpu

    with (folder / "build.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for left_over in folder.glob("*/lock"):
            left_over.unlink()
        for name, purpose in _OPS.items():
            builder = getattr(cpu, name)()
            if not any((folder / builder.name).glob("*.so")):
                tell(f"DeepSpeed compiles {purpose} for this CPU, once (half a minute to two)")
            builder.load(verbose=False)
