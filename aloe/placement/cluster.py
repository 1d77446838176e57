"""Placements on a Ray cluster: one placement group for each machine of a group."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from aloe.config import RayConfig
from aloe.errors import UserError
from aloe.placement.layout import Group, Node, shortfall
from aloe.progress import say

if TYPE_CHECKING:
    from ray.util.placement_group import PlacementGroup

PLACE_S = 300
"""How long to wait for a place: an autoscaler may have to start machines."""
_SAY_S = 10


def nodes() -> list[Node]:
    """The machines that are alive, with all that they have."""
    import ray

    return [
        Node(found["NodeID"], found["Resources"].get("GPU", 0), found["Resources"].get("CPU", 0))
        for found in ray.nodes()
        if found["Alive"]
    ]


def free_nodes() -> list[Node]:
    """The machines that are alive, with what nobody holds now."""
    from ray._private.state import available_resources_per_node

    free = available_resources_per_node()
    return [
        Node(node.name, free[node.name].get("GPU", 0), free[node.name].get("CPU", 0))
        for node in nodes()
        if node.name in free
    ]


def check_place(groups: Sequence[Group], config: RayConfig) -> None:
    """Refuse at once what the cluster can never place, instead of waiting for ever.

    Raises:
        UserError: the cluster has not enough, and does not grow (``ray.autoscaling``).
    """
    short = shortfall(groups, nodes())
    if short and not config.autoscaling:
        raise UserError(short)


@contextmanager
def placed(
    groups: Sequence[Group], config: RayConfig, patience_s: float = PLACE_S
) -> Iterator[dict[str, list[PlacementGroup]]]:
    """Hold the devices of some groups for the length of the block.

    Each machine of a group has a placement group of its own, with a bundle of one GPU and one CPU
    for each device; no two of them lie on the same machine.

    Args:
        patience_s: how long to wait for devices that others hold.

    Returns:
        Placement groups by role, machine by machine.

    Raises:
        UserError: the cluster has not enough, or others hold it for longer than that.
    """
    from ray.util.placement_group import remove_placement_group

    check_place(groups, config)
    deadline = time.monotonic() + patience_s
    held: list[PlacementGroup] = []
    places: dict[str, list[PlacementGroup]] = {}
    try:
        for group in sorted(groups, key=lambda group: (-group.devices, -group.nodes)):
            mine: list[PlacementGroup] = []
            for _ in range(group.nodes):
                place = _reserve(group, [_machine_of(other) for other in mine])
                held.append(place)
                mine.append(place)
                _wait(place, group, deadline)
            places |= dict.fromkeys(group.roles, mine)
        yield places
    finally:
        for place in held:
            remove_placement_group(place)


def _reserve(group: Group, taken: Sequence[str]) -> PlacementGroup:
    from ray.util.placement_group import placement_group

    elsewhere = {"ray.io/node-id": f"!in({','.join(taken)})"}
    return placement_group(
        [{"GPU": 1, "CPU": 1}] * group.devices,
        strategy="STRICT_PACK",
        bundle_label_selector=[elsewhere] * group.devices if taken else None,
    )


def _machine_of(place: PlacementGroup) -> str:
    from ray.util.placement_group import placement_group_table

    machine: str = placement_group_table(place)["bundles_to_node_id"][0]
    return machine


def _wait(place: PlacementGroup, group: Group, deadline: float) -> None:
    left = deadline - time.monotonic()
    if place.wait(timeout_seconds=min(_SAY_S, max(1, int(left)))):
        return
    reason = f"{group.keys}: {group.devices} GPU and CPU on one machine are not free yet"
    left = deadline - time.monotonic()
    if left > 1:
        say(f"{reason}; waiting up to {left:.0f} s")
    if left <= 1 or not place.wait(timeout_seconds=int(left)):
        raise UserError(f"{reason}; gave up")
