"""Placements as a table, before anything is loaded."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from aloe.placement.layout import Group, Node
from aloe.progress import console, say, telling_json


def show(title: str, phases: Sequence[Sequence[Group]], nodes: Sequence[Node] | None) -> None:
    """Print who lies where, and what the cluster has; with ``--json`` one line.

    Args:
        phases: groups that hold devices at the same time, one phase after the other.
        nodes: the machines that are there; None if nobody has looked.
    """
    rows = [
        {
            "role": role,
            "phase": number,
            "nodes": group.nodes,
            "devices": group.devices,
            "group": group.name,
            "gpus_per_process": group.fraction,
            "shares_with": [other for other in group.roles if other != role],
        }
        for number, groups in enumerate(phases, 1)
        for group in groups
        for role in group.roles
    ]
    cluster = None if nodes is None else [vars(node) for node in nodes]
    if telling_json():
        say(f"{title}: placements", placements=rows, cluster=cluster)
        return
    table = Table(title=f"{title}: placements", title_justify="left")
    for name in ("role", "when", "nodes x devices", "GPU a process", "shares with"):
        table.add_column(name)
    for row in rows:
        table.add_row(
            str(row["role"]),
            "at once" if len(phases) == 1 else f"phase {row['phase']} of {len(phases)}",
            f"{row['nodes']} x {row['devices']}",
            f"{row['gpus_per_process']:g}",
            ", ".join(map(str, row["shares_with"])) or "-",  # type: ignore[call-overload]
        )
    console.print(table)
    if nodes is not None:
        machines = "; ".join(f"{node.gpus:g} GPU, {node.cpus:g} CPU" for node in nodes)
        say(f"the cluster has {len(nodes)} machine{'s' * (len(nodes) != 1)}: {machines}")
