"""Which roles share devices, and whether machines have enough of them. Nothing here knows Ray."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

from aloe.config import Placement, Placements
from aloe.errors import UserError


@dataclass(frozen=True)
class Group:
    """Roles that lie on the same devices, one process of each role on each device."""

    name: str
    nodes: int
    devices: int
    """On each node."""
    roles: tuple[str, ...]

    @property
    def total(self) -> int:
        """Devices over all nodes; also the processes of each role."""
        return self.nodes * self.devices

    @property
    def fraction(self) -> float:
        """Share of a device that one process reserves."""
        return 1 / len(self.roles)

    @property
    def keys(self) -> str:
        """The settings behind it, for messages."""
        return ", ".join(f"placements.{role}" for role in self.roles)


@dataclass(frozen=True)
class Node:
    """A machine of the cluster; a device takes one GPU (logical ones count) and one CPU."""

    name: str
    gpus: float
    cpus: float

    @property
    def devices(self) -> int:
        return int(min(self.gpus, self.cpus))


def groups_of(placements: Placements, roles: Sequence[str]) -> list[Group]:
    """The groups in which some roles lie.

    Raises:
        UserError: roles of one group want different shapes.
    """
    found: dict[str, tuple[Placement, list[str]]] = {}
    for role in roles:
        placement: Placement = getattr(placements, role)
        name = placement.group or role
        first, members = found.setdefault(name, (placement, []))
        if (first.nodes, first.devices) != (placement.nodes, placement.devices):
            raise UserError(
                f'placements.{role}: group "{name}" is {first.nodes} x {first.devices} in '
                f"placements.{members[0]}, expected the same, not "
                f"{placement.nodes} x {placement.devices}"
            )
        members.append(role)
    return [
        Group(name, placement.nodes, placement.devices, tuple(members))
        for name, (placement, members) in found.items()
    ]


def shortfall(groups: Sequence[Group], nodes: Sequence[Node]) -> str:
    """What the cluster lacks for these groups at the same time; empty if nothing.

    Each group wants ``nodes`` different machines with ``devices`` free GPUs and CPUs each; groups
    may share a machine.
    """
    have = [node.devices for node in nodes]
    if _fits(sorted(groups, key=lambda group: (-group.devices, -group.nodes)), have):
        return ""
    wanted = sum(group.total for group in groups)
    wishes = "; ".join(
        f"{group.keys}: {group.nodes} {_machines(group.nodes)} with {group.devices} GPU and "
        f"{group.devices} CPU {'each' if group.nodes > 1 else 'free'}"
        for group in groups
    )
    cluster = ", ".join(f"{node.gpus:g} GPU and {node.cpus:g} CPU" for node in nodes) or "none"
    together = f" ({wanted} of each in all)" if len(groups) > 1 else ""
    return f"{wishes}{together}; the cluster has {len(nodes)} {_machines(len(nodes))}: {cluster}"


def _machines(number: int) -> str:
    return "machine" if number == 1 else "machines"


def _fits(groups: Sequence[Group], free: Sequence[int]) -> bool:
    """Whether the groups find their machines; tries all ways that differ."""
    if not groups:
        return True
    first, rest = groups[0], groups[1:]
    for chosen in _choices(first, free):
        left = [room - first.devices * (i in chosen) for i, room in enumerate(free)]
        if _fits(rest, left):
            return True
    return False


def _choices(group: Group, free: Sequence[int]) -> Iterator[frozenset[int]]:
    """Ways to choose a group's machines; machines with equal room are alike."""
    able = [i for i, room in enumerate(free) if room >= group.devices]
    seen = set()
    for chosen in combinations(able, group.nodes):
        rooms = tuple(sorted(free[i] for i in chosen))
        if rooms not in seen:
            seen.add(rooms)
            yield frozenset(chosen)
