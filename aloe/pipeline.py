"""A run: its stages in a row, each once, with the engines that stay between them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from importlib import import_module
from itertools import zip_longest
from typing import Any

from aloe.checks import PROBE, prepare
from aloe.config import Config
from aloe.engines.kept import kept, kept_engines
from aloe.placement import Kind, training_fits
from aloe.progress import say
from aloe.provenance import recorded
from aloe.stages import STAGES, engines_of, is_complete, kind_of, roles_of, stages_of
from aloe.storage import Manifest, Store, load_manifest, run_store
from aloe.storage.records import read_record

Stage = Callable[[Config, Store], Manifest]

RETRIED: dict[str, str] = {
    "dialogue": "aloe.dialogue:retry_failed",
    "evaluation": "aloe.evaluation:retry_failed",
}
"""Stage -> function that lets its failed items be owed again."""

_GIVEN_BACK_S = 5.0


def run_all(config: Config, retry: bool = False) -> bool:
    """Run every stage that is not complete yet.

    Args:
        retry: try failed items again, see `retry_failed`.

    Returns:
        Whether there was anything to do.

    Raises:
        UserError: the configuration, a checkpoint, a server or the run folder is not usable; found
            out before Ray or a model starts.
    """
    store = run_store(config)
    store.check_reachable()
    stages = stages_of(config)
    if retry:
        for name in stages:
            retry_failed(config, store, name)
    fresh = [name for name in stages if not is_complete(store, name)]
    if fresh:
        prepare(config, store, stages)
    with (
        recorded(config, store) if fresh else nullcontext(),
        _keeping(config, store, fresh),
        ExitStack() as ending,
    ):
        if any(map(partial(kind_of, config), fresh)):
            from aloe.training import drop

            ending.callback(drop)  # what a training has started ahead and nobody has taken
        for name, following in zip_longest(stages, stages[1:]):
            _make_room(config, store, name)
            with _announced(config, following if following in fresh else None):
                run_stage(config, store, name)
            if name in fresh and following not in (None, "report"):
                _show_page(config, store)
    if not fresh:
        say(f"{config.run.dir}: all stages are complete, nothing to do", dir=config.run.dir)
    _say_page(store)
    return bool(fresh)


def _show_page(config: Config, store: Store) -> None:
    """Write the page anew, with what has been made so far."""
    from aloe.report import write_report

    write_report(config, store)
    _say_page(store)


def _say_page(store: Store) -> None:
    say(f"report: {store.url('report', 'index.html')}")


@contextmanager
def _announced(config: Config, following: str | None) -> Iterator[None]:
    """Let a training know which one comes next."""
    kind = kind_of(config, following)
    if kind is None:
        yield
        return
    from aloe.training import announce

    announce(config, kind)
    try:
        yield
    finally:
        announce(config, None)


@contextmanager
def _keeping(config: Config, store: Store, stages: list[str]) -> Iterator[None]:
    """Let engines stay from one of these stages to the next (``run.keep_engines``)."""
    if not stages or not config.run.keep_engines:
        yield
        return
    uses = {stage: engines_of(config, store, stage) for stage in stages}
    with kept_engines(uses):
        yield


def _make_room(config: Config, store: Store, stage: str) -> None:
    """Close engines that nobody needs any more, or whose room a training needs."""
    keeping = kept()
    if keeping is None:
        return
    keeping.begin(stage)
    kind = kind_of(config, stage)
    if kind is None or not keeping.models():
        return
    from aloe.training import is_started

    if not is_started() and not _has_room(config, kind):
        keeping.make_room(engines_of(config, store, stage), f"{stage} needs the room")


def _has_room(config: Config, kind: Kind) -> bool:
    """`training_fits`, as soon as what the stage before held has been given back."""
    deadline = time.monotonic() + _GIVEN_BACK_S
    while not training_fits(config, kind):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.5)
    return True


def retry_failed(config: Config, store: Store, name: str) -> None:
    """Let a stage's failed items be owed again, unless a later stage has read what there is."""
    if name not in RETRIED:
        return
    manifest = load_manifest(store, name)
    stages = [stage for stage in stages_of(config) if stage != "report"]
    read = [stage for stage in _readers(stages, name) if load_manifest(store, stage) is not None]
    if manifest is None or not (store.names(name, "errors") or store.exists(name, "open")):
        return
    if read:
        say(f"{name}: failed items stay, as {read[0]} has been made from the others")
        return
    module, function = RETRIED[name].split(":")
    replace(manifest, complete=False).save(store)  # first: a kill in between loses nothing
    owed = getattr(import_module(module), function)(store)
    if not owed:
        manifest.save(store)
    else:
        say(f"{name}: {owed} failed items are tried again", stage=name, retried=owed)


def _readers(stages: list[str], name: str) -> list[str]:
    return stages[stages.index(name) + 1 :] if name in stages else []


def run_one(config: Config, name: str, retry: bool = False) -> Manifest:
    """Run one stage; its inputs must be there.

    Args:
        retry: try its failed items again, see `retry_failed`.
    """
    store = run_store(config)
    store.check_reachable()
    if retry:
        retry_failed(config, store, name)
    fresh = not is_complete(store, name)
    if fresh:
        prepare(config, store, [name])
    with recorded(config, store) if fresh else nullcontext():
        return run_stage(config, store, name)


def judge_file(config: Config, path: str, turns: int | None) -> Manifest:
    """Judge conversations of a file, see `aloe.evaluation.judge_conversations`."""
    from aloe.evaluation import judge_conversations

    store = run_store(config)
    store.check_reachable()
    store.check_writable()
    return judge_conversations(config, store, path, turns)


def run_stage(config: Config, store: Store, name: str) -> Manifest:
    """Call a stage's entry function and say how it went."""
    before = is_complete(store, name)
    module, function = STAGES[name].split(":")
    stage: Stage = getattr(import_module(module), function)
    manifest = stage(config, store)
    if before:
        say(f"{name}: complete", stage=name)
        return manifest
    manifest = _note_samplers(config, store, name, manifest)
    usage = manifest.usage
    say(
        f"{name}: done in {manifest.wall_seconds:.0f} s, {usage.prompt_tokens} prompt "
        f"({usage.cached_tokens} cached) and {usage.completion_tokens} completion tokens",
        stage=name,
        wall_seconds=manifest.wall_seconds,
        counts=manifest.counts,
        results=manifest.results,
    )
    if manifest.counts:
        say(f"{name}: {_told(manifest.counts)}", stage=name)
    return manifest


def _told(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in counts.items() if count)


def _note_samplers(config: Config, store: Store, name: str, manifest: Manifest) -> Manifest:
    """Put into a stage's manifest which parameters of samplers its servers did not honour."""
    if not manifest.complete or not store.exists(PROBE):
        return manifest
    names = roles_of(config, [name])
    probes = read_record(store, PROBE, "a record of a probe", _not_honoured)
    ignored = {model: lost for model, lost in probes.items() if lost and model in names}
    if not ignored:
        return manifest
    noted = manifest.results | {"sampler_not_honoured": ignored}
    return replace(manifest, results=noted).save(store)


def _not_honoured(probes: Any) -> dict[str, list[str]]:
    return {probed["model"]: probed["not_honoured"] for probed in probes}
