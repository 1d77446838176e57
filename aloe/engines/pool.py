"""Rows through a pool of Ray Data actors, as they finish.

One row per block, so that Ray Data hands rows out one by one and a finished row leaves its actor
at once; within an actor every row is its own coroutine (see `ActorPool.in_flight`).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from aloe.config import ActorPool

if TYPE_CHECKING:
    import ray.data


def run_rows(
    rows: list[dict[str, Any]],
    worker: type,
    arguments: dict[str, Any],
    pool: ActorPool,
    num_gpus: float,
) -> Iterator[dict[str, Any]]:
    """Give each row to an actor of ``worker`` and yield its output rows in the order they finish.

    Args:
        rows: flat dicts with the same keys.
        worker: class whose ``async def __call__(self, batch)`` is an async generator that takes
            and yields batches of one row (dict of arrays).
        arguments: keyword arguments of the worker's constructor.
        pool: how many actors, with what, and how many rows each has in flight.
        num_gpus: (logical) GPUs per actor, see `aloe.engines.gpus_for`.
    """
    import ray.data

    _quiet(ray.data.DataContext.get_current())
    dataset = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        worker,
        fn_constructor_kwargs=arguments,
        batch_size=1,
        num_cpus=pool.num_cpus,
        num_gpus=num_gpus,
        compute=ray.data.ActorPoolStrategy(
            min_size=pool.min,
            max_size=pool.max,
            max_tasks_in_flight_per_actor=pool.in_flight,
            max_concurrent_calls_per_actor=pool.in_flight,
        ),
    )
    yield from dataset.iter_rows()


def _quiet(context: ray.data.DataContext) -> None:
    context.enable_progress_bars = False  # aloe.progress shows trees, tokens and time left
    context.execution_options.preserve_order = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
