"""Estimate each stage of a run from a few items: the run's own, where it has some, or a probe's."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass

from aloe.config import Config
from aloe.errors import StageFailed
from aloe.estimate.probe import probed
from aloe.estimate.samples import enough, sample_of
from aloe.estimate.stages import (
    SPEAKING,
    Looked,
    StageEstimate,
    estimate_dialogue,
    estimate_evaluation,
    estimate_personas,
    estimate_ppo,
    estimate_rounds,
)
from aloe.personas import check_personas, look_at_given
from aloe.personas.growth import growth_of
from aloe.personas.lexicon import KINDS, Kind
from aloe.personas.pairing import count_personas
from aloe.stages import is_complete, stages_of
from aloe.storage import Store, Usage, load_manifest, run_store
from aloe.storage.spending import spent_by_stage


@dataclass(frozen=True)
class Estimate:
    """What is left of a run, by stage."""

    stages: list[StageEstimate]
    spent: Usage
    """By the run so far."""
    probe: Usage
    """By this estimate."""
    max_tokens: int | None
    max_cost_usd: float | None


_LIKE = {"training/ppo": "evaluation", "training/rounds": "dialogue"}
"""Stages whose items are like those of another."""


def estimate_run(config: Config, items: int) -> Estimate:
    """Hold a few requests, trees and cases with the configured engines and multiply.

    A stage of which the run folder has finished items is estimated from those. Nothing is written
    into the run folder; a probe's lies beside it and is removed.

    Args:
        items: trees, cases per policy, requests per pool.

    Raises:
        UserError: see `aloe.checks.prepare`.
        StageFailed: nothing of a probe was finished.
    """
    store = run_store(config)
    store.check_reachable()
    stages = [name for name in stages_of(config) if name in SPEAKING]
    if config.personas.given:  # nobody speaks in it
        stages.remove("personas")
    open_stages = [name for name in stages if not is_complete(store, name)]
    asked = dict.fromkeys(_LIKE.get(name, name) for name in open_stages)
    own = {name: sample_of(name, config, store) for name in asked}
    missing = [name for name, sample in own.items() if not enough(sample)]
    samples, probe = dict(own), Usage()
    with ExitStack() as stack:
        if missing:
            beside = stack.enter_context(probed(config, store, missing, items))
            samples |= {name: sample_of(name, config, beside) for name in missing}
            probe = sum(spent_by_stage(beside).values(), start=Usage())
    for name in missing:
        if not all(map(len, samples[name].values())):
            raise StageFailed(f"{name}: nothing of the probe was finished, so nothing is known")
    talking, benchmark = _personas_of(config, store)
    found = []
    for name in stages:
        if name not in open_stages:
            found.append(StageEstimate(name, 0, SPEAKING[name], "complete"))
            continue
        key = _LIKE.get(name, name)
        source = "probe" if key in missing else "run"
        looked = Looked(config, store, samples[key], source, items)
        match name:
            case "personas":
                found.append(estimate_personas(looked))
            case "dialogue":
                found.append(estimate_dialogue(looked, talking))
            case "training/rounds":
                found.append(estimate_rounds(looked, talking))
            case "training/ppo":
                found.append(estimate_ppo(looked))
            case "evaluation":
                found.append(estimate_evaluation(looked, benchmark))
    return Estimate(
        found,
        sum(spent_by_stage(store).values(), start=Usage()),
        probe,
        config.run.max_tokens,
        config.run.max_cost_usd,
    )


def _personas_of(config: Config, store: Store) -> tuple[int, int]:
    """Personas for dialogue and for the benchmark: the run's, else as many as can be."""
    manifest = load_manifest(store, "personas")
    if manifest is not None and manifest.complete:
        benchmark = manifest.counts.get("benchmark_personas", 0)
        return manifest.counts["personas"] - benchmark, benchmark
    if config.personas.given:
        given = look_at_given(config)
        return given.talking, given.tested
    starting = check_personas(config)
    sizes: dict[Kind, int] = {
        kind: max(
            growth_of(kind, config.personas).size,
            sum(len(outcome["candidates"]) for outcome in starting[kind]),
        )
        for kind in KINDS
    }
    return count_personas(sizes, config.personas)
