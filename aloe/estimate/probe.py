"""A few requests, trees and cases that are really held, in a folder that is removed again."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

from aloe.checks import prepare
from aloe.config import ActorPool, Config, ModelConfig, VllmModel
from aloe.dialogue import rollout_dialogues
from aloe.engines.kept import kept_engines
from aloe.evaluation import evaluate_policies
from aloe.personas import expand_personas
from aloe.progress import say, silently
from aloe.schema import PERSONAS
from aloe.stages import engines_of
from aloe.storage import Manifest, Store, load_manifest

_TRAINED = ("sft", "rounds", "dpo", "ppo")
_STAGES = {
    "personas": expand_personas,
    "dialogue": rollout_dialogues,
    "evaluation": evaluate_policies,
}


@contextmanager
def probed(config: Config, run: Store, stages: Collection[str], items: int) -> Iterator[Store]:
    """Run small versions of these stages beside the run; the block reads what they have written.

    The probe's personas are the run's first ones, if they are there; else pairs of what the pools
    start with and of one round of the writer.

    Args:
        stages: of personas, dialogue and evaluation.
        items: trees; cases per policy; requests per pool.

    Raises:
        UserError: see `aloe.checks.prepare`.
        StageStopped: the probe itself has reached a limit of the run.
    """
    store = Store(f"{run.root.rstrip('/')}.estimate", run.options)
    store.remove()  # of one that was killed
    small = probe_config(config, store.root, items)
    wanted = [name for name in _STAGES if name in stages]
    if not _borrow_personas(run, store, items):
        wanted = ["personas", *(name for name in wanted if name != "personas")]
    prepare(small, store, wanted)
    uses = {stage: engines_of(small, store, stage) for stage in wanted}
    try:
        with kept_engines(uses) as keeping:
            for name in wanted:
                say(f"probe: {name}, {items} at once", stage=name)
                with silently():
                    keeping.begin(name)
                    _STAGES[name](small, store)
        yield store
    finally:
        store.remove()


def probe_config(config: Config, folder: str, items: int) -> Config:
    """The same models, prompts, samplers and turns, with one actor and a few items."""
    actors = {"min": 1, "max": 1}

    def alone(pool: ActorPool) -> ActorPool:
        return pool.model_copy(update=actors)

    personas = config.personas.model_copy(
        update={
            "max_rounds": 1,
            "requests_per_round": items,
            "heldout_personas": items,
            "heldout_profiles": items,
            "heldout_personalities": 1,
            "personalities_per_profile": 1,
            "max_personas": items,
            "actors": alone(config.personas.actors),
        }
    )
    dialogue = config.dialogue.model_copy(
        update={"branching": "spine", "actors": alone(config.dialogue.actors)}
    )
    policies = policies_of(config)
    evaluation = config.evaluation.model_copy(
        update={
            "policies": policies,
            "baseline": next(iter(policies)),
            "max_cases": None,
            "bootstrap_samples": 100,
            "actors": alone(config.evaluation.actors),
        }
    )
    return config.model_copy(
        update={
            "run": config.run.model_copy(update={"dir": folder, "max_error_rate": 1.0}),
            "models": {name: _one_engine(model) for name, model in config.models.items()},
            "personas": personas,
            "dialogue": dialogue,
            "evaluation": evaluation,
        }
    )


def policies_of(config: Config) -> dict[str, str]:
    """The policies that are probed, each model once, by the name of the first that speaks so."""
    found: dict[str, str] = {}
    for name, target in config.evaluation.policies.items():
        if speaks_like(target) not in found.values():
            found[name] = speaks_like(target)
    return found


def speaks_like(target: str) -> str:
    """A value of ``evaluation.policies``: what is still to be trained is as large as its base."""
    return "base" if target in _TRAINED else target


def _one_engine(model: ModelConfig) -> ModelConfig:
    if isinstance(model, VllmModel) and model.pool is not None:
        return model.model_copy(update={"pool": model.pool.model_copy(update={"replicas": 1})})
    return model


def _borrow_personas(run: Store, store: Store, items: int) -> bool:
    manifest = load_manifest(run, "personas")
    if manifest is None or not manifest.complete:
        return False
    personas = run.read_table("personas/personas.parquet", PERSONAS).to_pylist()
    rows: list[dict[str, Any]] = []
    for benchmark in (False, True):
        found = [row for row in personas if (row["split"] == "benchmark") == benchmark]
        whole = items % 2 if found and found[0]["twin_id"] else 0  # twins stand side by side
        rows += found[: items + whole]
    store.write_table("personas/personas.parquet", rows, PERSONAS)
    Manifest("personas", {}, manifest.fingerprint, complete=True).save(store)
    return True
