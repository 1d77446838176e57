"""OpenRLHF's group of Ray actors, on placements of several machines.

Import after `aloe.training.accelerator.prepare`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import ray
from openrlhf.trainer.ray.launcher import RayActorGroup
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from aloe.placement import Group
from aloe.training.protocol import Job


class PlacedGroup(RayActorGroup):  # type: ignore[misc]
    """One actor on each device of a `Group`; rank r is on machine r // devices.

    OpenRLHF packs all devices into one placement group, wherever they lie, and starts no other rank
    before the first has imported everything.
    """

    def __init__(self, worker: Any, group: Group, places: Sequence[PlacementGroup]) -> None:
        """``places``: one for each machine, see `aloe.placement.placed`."""
        self._places = places
        super().__init__(group.nodes, group.devices, worker, num_gpus_per_actor=group.fraction)

    def start(self, method: str, job: Job) -> list[Any]:
        """Let every rank run ``method``; references to what they return."""
        job = replace(job, processes=self._num_gpus_per_node)
        first, *others = self._actor_handlers
        if others:
            job = replace(job, master=ray.get(first.get_master_addr_port.remote()))
        return self.async_run_method(method, job)

    def _initiate_actors(self, pg: PlacementGroup | None, num_gpus_per_actor: float) -> None:
        world = self._num_nodes * self._num_gpus_per_node
        self._actor_handlers = []
        for rank in range(world):
            machine, device = divmod(rank, self._num_gpus_per_node)
            where = PlacementGroupSchedulingStrategy(
                placement_group=self._places[machine], placement_group_bundle_index=device
            )
            actor = self.ray_actor_type.options(
                num_cpus=num_gpus_per_actor,
                num_gpus=num_gpus_per_actor,
                scheduling_strategy=where,
            ).remote(world, rank, None, None)
            self._actor_handlers.append(actor)
