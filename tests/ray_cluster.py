"""Ray clusters of several nodes on this machine, several of them at once."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ray.cluster_utils import Cluster


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@contextmanager
def started_cluster(**head: Any) -> Iterator[Cluster]:
    """A cluster of one node, on ports that no other has; ``head`` is what `add_node` takes."""
    import ray

    ports = {"gcs_server_port": free_port(), "dashboard_port": free_port()}
    cluster = Cluster(initialize_head=True, head_node_args={**ports, **head})
    try:
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()
