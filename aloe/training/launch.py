"""Training processes as Ray actors: started in their place, followed while they work, ended."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from aloe.config import Config
from aloe.errors import UserError
from aloe.placement import PLACE_S, groups_of, placed
from aloe.training import ahead
from aloe.training.protocol import Job, Outcome, Saving
from aloe.training.recorder import Recorder

if TYPE_CHECKING:
    from aloe.training.actor_group import PlacedGroup

_POLL_S = 1.0


@contextmanager
def teams(config: Config, workers: Mapping[str, Any]) -> Iterator[dict[str, PlacedGroup]]:
    """Start the actors of some roles, one on each device of a role's placement.

    At the end of the block the actors are gone, and their devices are given back.

    Args:
        workers: Ray actor class of each role of `aloe.config.Placements`.

    Raises:
        UserError: the cluster cannot place them.
    """
    found = ahead.take(config, workers)
    if found is not None:
        stack, team = found
        with stack:
            yield team
        return
    with started(config, workers) as team:
        yield team


@contextmanager
def started(
    config: Config, workers: Mapping[str, Any], patience_s: float = PLACE_S
) -> Iterator[dict[str, PlacedGroup]]:
    """`teams`, whatever may have been started ahead.

    Args:
        patience_s: how long to wait for devices.
    """
    import ray

    from aloe.training.actor_group import PlacedGroup

    groups = groups_of(config.placements, list(workers))
    with placed(groups, config.ray, patience_s) as places:
        team: dict[str, PlacedGroup] = {}
        try:
            for role, worker in workers.items():
                group = next(group for group in groups if role in group.roles)
                team[role] = PlacedGroup(worker, group, places[role])
            yield team
        finally:
            for actors in team.values():
                for actor in actors._actor_handlers:
                    ray.kill(actor)


def follow(group: PlacedGroup, method: str, job: Job, recorder: Recorder) -> Outcome:
    """Let every rank run ``method`` and hand what the first one tells to the recorder.

    Returns:
        The first rank's outcome.

    Raises:
        UserError: raised by a rank.
    """
    import ray

    running = group.start(method, job)
    waiting, first = list(running), group._actor_handlers[0]
    seen = 0
    while waiting:
        done, waiting = ray.wait(waiting, timeout=_POLL_S)
        check(done)
        events = ray.get(first.poll.remote(seen))
        seen += len(events)
        for event in events:
            if isinstance(event, Saving):
                ahead.start_next()
            else:
                recorder.take(event)
    return ray.get(running[0])


def check(done: Sequence[Any]) -> None:
    """Raise what a rank raised.

    Raises:
        UserError: raised by a rank.
    """
    import ray

    try:
        ray.get(list(done))
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, UserError):
            raise error.cause from error
        raise
