"""The Ray cluster: joined, or started on this machine."""

from __future__ import annotations

import logging
import os
import socket
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aloe.errors import UserError
from aloe.interrupt import beside_other_handlers
from aloe.machine import machine_has_gpu, usable_cores
from aloe.processes import OFF, forks, preload, python_of_workers, reap
from aloe.ray_token import ensure_token

if TYPE_CHECKING:
    from aloe.config import RayConfig


_SOCKET_BYTES = 107
"""Longest path of a Unix socket."""
_SOCKET = "/ray/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"
_PROBE_BYTES = 64 << 10


def check_address(config: RayConfig) -> str | None:
    """The address of the cluster to join, None if Ray is started here.

    Raises:
        UserError: nobody listens at that address; found out in seconds, which Ray itself takes
            minutes for.
    """
    address = config.address or os.environ.get("RAY_ADDRESS")
    host, _, port = (address or "").rpartition("://")[2].rpartition(":")
    if host and port.isdigit():
        try:
            socket.create_connection((host, int(port)), timeout=3).close()
        except OSError as error:
            raise UserError(f"ray.address {address}: nobody listens there ({error})") from error
    return address


def check_temporary() -> None:
    """Whether a Ray that is started here has room for its files and the names of its sockets.

    Ray wants the whole path of its folder: one that is relative is made absolute.

    Raises:
        UserError: RAY_TMPDIR (or TMPDIR) is too long, or cannot be written to.
    """
    name = "RAY_TMPDIR" if os.environ.get("RAY_TMPDIR") else "TMPDIR"
    folder = str(Path(os.environ.get(name) or tempfile.gettempdir()).absolute())
    if os.environ.get(name):
        os.environ[name] = folder
    longest = _SOCKET_BYTES - len(_SOCKET)
    if len(os.fsencode(folder)) > longest:
        raise UserError(
            f"{name} {folder}: too long for Ray's sockets, expected at most {longest} bytes; set "
            "RAY_TMPDIR to a shorter folder"
        )
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(bytes(_PROBE_BYTES))
    except OSError as error:
        raise UserError(f"{name} {folder}: cannot be written ({error.strerror})") from error


def connect(config: RayConfig, modules: Sequence[str] = ()) -> None:
    """Join the configured cluster, or start Ray on this machine; again is no harm.

    Workers may be copies of the fork server (`aloe.processes`): ``ray.fork_server``.

    Args:
        modules: what the workers to come will import; the fork server begins at once.

    Raises:
        UserError: the configured cluster cannot be reached.
    """
    import ray

    if ray.is_initialized():
        if ray.get_runtime_context().runtime_env.get("py_executable") == python_of_workers():
            preload(modules)
        return
    if config.fork_server is False:
        os.environ[OFF] = "1"
    else:
        os.environ.pop(OFF, None)
    copied: dict[str, Any] = {"runtime_env": {"py_executable": python_of_workers()}}
    os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's default of 15 starves engines
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # its warnings are about Ray's insides
    if forks():  # what Ray starts ahead are no copies, and would wait unused
        os.environ.setdefault("RAY_prestart_worker_first_driver", "0")
    address = check_address(config)
    if not address:
        check_temporary()
        ensure_token()
    if forks() and (config.fork_server or not address):
        preload(modules)
    if address:
        try:
            with beside_other_handlers():
                ray.init(
                    address=address,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    **(copied if config.fork_server and forks() else {}),
                )
        except ConnectionError as error:
            raise UserError(f"ray.address {address}: no Ray cluster answers there") from error
        return
    reap()
    with beside_other_handlers():
        ray.init(
            address="local",  # None would join what somebody else started on this machine
            # Logical ones: a stage's actors mostly wait. Threads go by the cores that there are.
            num_cpus=config.num_cpus or max(4, usable_cores()),
            num_gpus=None if machine_has_gpu() else config.logical_gpus,
            object_store_memory=config.object_store_mib << 20,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            **(copied if forks() else {}),
        )


def has_resources(gpus: float, cpus: float) -> bool:
    """Whether the joined cluster has that many (logical) GPUs and CPUs in all."""
    import ray

    have = ray.cluster_resources()
    return gpus <= have.get("GPU", 0) and cpus <= have.get("CPU", 0)


def require_resources(config: RayConfig, key: str, gpus: float, cpus: float) -> None:
    """Refuse at once what the joined cluster can never place, instead of waiting for ever.

    Args:
        key: the setting that asks; named in the error.
        gpus: (logical) GPUs asked for in all.
        cpus: CPUs asked for in all.

    Raises:
        UserError: the cluster has less and does not grow (``ray.autoscaling``).
    """
    import ray

    have = ray.cluster_resources()
    wanted = {"GPU": gpus, "CPU": cpus}
    short = [
        f"{amount:g} {kind}s (the cluster has {have.get(kind, 0):g})"
        for kind, amount in wanted.items()
        if amount > have.get(kind, 0)
    ]
    if short and not config.autoscaling:
        raise UserError(
            f"{key}: wants {' and '.join(short)}; see ray.logical_gpus, ray.autoscaling"
        )
