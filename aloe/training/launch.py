"""Training processes as Ray actors: placed together, followed while they work, gone afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from aloe.errors import UserError
from aloe.progress import meter, say
from aloe.training.protocol import Advance, Begin, Event, Job, Measured, Note, Outcome

if TYPE_CHECKING:
    from openrlhf.trainer.ray.launcher import RayActorGroup

PLACE_S = 300
"""How long to wait for a place: an autoscaler may have to start machines."""
_POLL_S = 1.0


@contextmanager
def ranks(worker: Any, count: int, key: str, can_grow: bool) -> Iterator[RayActorGroup]:
    """``count`` actors of the Ray actor class ``worker``, one (logical) GPU and one CPU each.

    At the end of the block the actors and their placement group are gone, so that the next stage
    has their memory.

    Args:
        key: the setting that an error names.
        can_grow: whether an autoscaler may add machines.

    Raises:
        UserError: the cluster has not got that many GPUs.
    """
    import ray
    from openrlhf.trainer.ray.launcher import RayActorGroup
    from ray.util.placement_group import placement_group, remove_placement_group

    short = _shortfall(count)
    if short and not can_grow:
        raise UserError(f"{key}: {short}")
    place = placement_group([{"GPU": 1, "CPU": 1}] * count, strategy="PACK")
    group = None
    try:
        if not place.wait(timeout_seconds=10):
            reason = short or f"{count} ranks need a GPU and a CPU each, and others hold them"
            say(f"{key}: {reason}; waiting up to {PLACE_S} s")
            if not place.wait(timeout_seconds=PLACE_S):
                raise UserError(f"{key}: {reason}; gave up after {PLACE_S} s")
        group = RayActorGroup(1, count, worker, pg=place)
        yield group
    finally:
        for actor in group._actor_handlers if group else ():
            ray.kill(actor)
        remove_placement_group(place)


def _shortfall(count: int) -> str:
    import ray

    have = ray.cluster_resources()
    found = {kind: int(have.get(kind, 0)) for kind in ("GPU", "CPU")}
    missing = [f"{number} {kind}" for kind, number in found.items() if number < count]
    if not missing:
        return ""
    return f"{count} ranks need {count} GPU and {count} CPU, the cluster has {', '.join(missing)}"


def follow(group: RayActorGroup, job: Job) -> tuple[Outcome, list[dict[str, Any]]]:
    """Let every rank run `train` and show what the first one tells.

    Returns:
        The first rank's outcome, and rows of `aloe.schema.METRICS`.

    Raises:
        UserError: raised by a rank.
    """
    import ray

    running = group.async_run_method("train", job)
    waiting, first = list(running), group._actor_handlers[0]
    rows: list[dict[str, Any]] = []
    seen = 0
    with ExitStack() as bars:
        bar = None
        while waiting:
            done, waiting = ray.wait(waiting, timeout=_POLL_S)
            _raise_failures(done)
            events = ray.get(first.poll.remote(seen))
            seen += len(events)
            for event in events:
                bar = _show(event, bars, bar)
                if isinstance(event, Measured):
                    rows.extend(_rows(job.kind, event))
    return ray.get(running[0]), rows


def _raise_failures(done: list[Any]) -> None:
    import ray

    try:
        ray.get(done)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, UserError):
            raise error.cause from error
        raise


def _show(event: Event, bars: ExitStack, bar: Any) -> Any:
    if isinstance(event, Begin):
        bars.close()
        return bars.enter_context(meter(event.label, event.total))
    if isinstance(event, Advance):
        bar(event.units)
    elif isinstance(event, Note):
        say(event.text)
    else:
        numbers = ", ".join(f"{name} {value:.4g}" for name, value in event.values.items())
        what = f"{event.split} split after" if event.whole else "batch of"
        say(f"{what} step {event.step}: {numbers}", **event.values)
    return bar


def _rows(kind: str, event: Measured) -> list[dict[str, Any]]:
    prefix = "whole_" if event.whole and event.split == "train" else ""
    where = {"stage": kind, "split": event.split, "step": event.step}
    return [
        {**where, "name": prefix + name, "value": value} for name, value in event.values.items()
    ]
