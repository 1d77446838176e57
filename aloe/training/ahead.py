"""The processes of the training that comes next, started while the present one saves.

They import what they need and load nothing; models are loaded when their own training begins. Off
where devices or memory do not allow both (`aloe.placement.training_fits`).
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aloe.config import Config
from aloe.errors import UserError
from aloe.placement import Kind, phases_of, training_fits
from aloe.progress import say

if TYPE_CHECKING:
    from aloe.training.actor_group import PlacedGroup

_PATIENCE_S = 1.0
"""How long to wait for devices that were free a moment ago."""
Team = dict[str, "PlacedGroup"]


@dataclass(frozen=True)
class _Started:
    key: tuple[Any, ...]
    stack: ExitStack
    """Ends them."""
    team: Team


_next: tuple[Config, Kind] | None = None
_started: _Started | None = None


def announce(config: Config, kind: Kind | None) -> None:
    """Say which training comes next in this process, None if there is none."""
    global _next
    _next = None if kind is None else (config, kind)


def start_next() -> None:
    """Start the processes of what was announced, if there is room for them now."""
    global _started, _next
    if _next is None or _started is not None:
        return
    (config, kind), _next = _next, None
    if not training_fits(config, kind):
        return
    from ray.exceptions import RayError

    from aloe.training.launch import started

    workers = _first_workers(config, kind)
    stack = ExitStack()
    try:
        team = stack.enter_context(started(config, workers, _PATIENCE_S))
    except (UserError, RayError) as error:  # somebody else was faster; the present training goes on
        say(f"{kind}: its processes are not started ahead: {error}")
        return
    _started = _Started(_key(config, workers), stack, team)
    say(f"{kind}: its processes start while this training saves")


def is_started() -> bool:
    """Whether the next training's processes are there: then it has its room."""
    return _started is not None


def take(config: Config, workers: Mapping[str, Any]) -> tuple[ExitStack, Team] | None:
    """Processes that were started for these roles; of others, the devices are given back."""
    found = _given_up()
    if found is None:
        return None
    if found.key == _key(config, workers) and _answers(found.team):
        return found.stack, found.team
    found.stack.close()
    return None


def drop() -> None:
    """End what was started and nobody took."""
    found = _given_up()
    if found is not None:
        found.stack.close()


def _given_up() -> _Started | None:
    global _started
    found, _started = _started, None
    return found


def _answers(team: Team) -> bool:
    import ray

    actors = [actor for group in team.values() for actor in group._actor_handlers]
    try:
        ray.get([actor.__ray_ready__.remote() for actor in actors])
    except ray.exceptions.RayError:
        return False
    return True


def _key(config: Config, workers: Mapping[str, Any]) -> tuple[Any, ...]:
    return (
        tuple((role, worker.__ray_metadata__.class_name) for role, worker in workers.items()),
        config.placements.model_dump_json(),
        config.ray.model_dump_json(),
    )


def _first_workers(config: Config, kind: Kind) -> dict[str, Any]:
    """Ray actor class of each role of a training's first phase."""
    if kind == "sft":
        from aloe.training.sft_worker import SftWorker

        return {"actor": SftWorker}
    if kind == "reward":
        from aloe.training.reward_worker import RewardWorker

        return {"reward": RewardWorker}
    if kind == "dpo":
        from aloe.training.dpo_worker import DpoWorker
        from aloe.training.reference_worker import ReferenceWorker

        first = {"reference": ReferenceWorker, "actor": DpoWorker}
        return {role: first[role] for role in phases_of(config, "dpo")[0]}
    from aloe.training.ppo.stage import workers_of

    return workers_of(config)
