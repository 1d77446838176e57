"""Estimate each stage of a run from a few items: the run's own, where it has some, or a probe's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from aloe.config import ActorPool, Config, ModelConfig, PpoConfig, VllmModel, speakers_of
from aloe.dialogue.branches import branches_by_turn
from aloe.engines.actors import most_open
from aloe.errors import StageFailed
from aloe.estimate import numbers
from aloe.estimate.numbers import Floats, Range
from aloe.estimate.probe import policies_of, probed, speaks_like
from aloe.evaluation.policies import cast_of
from aloe.personas import check_personas
from aloe.personas.growth import growth_of
from aloe.personas.lexicon import KINDS, Kind
from aloe.personas.pairing import count_personas
from aloe.pipeline import stages_of
from aloe.schema import NODES, ROUNDS, SCORES, derive_seed
from aloe.storage import Store, Usage, load_manifest, run_store
from aloe.storage.spending import spent_by_stage

_MOST_SAMPLED = 64
"""Items of the run's own that a sample has at most."""
_ENOUGH = 2
"""Items of the run's own with which no probe is needed."""

Row = dict[str, Any]


@dataclass(frozen=True)
class StageEstimate:
    """What is left of one stage."""

    stage: str
    left: float
    """Trees, cases, episodes, or requests to the writer."""
    unit: str
    source: str
    """``probe``, ``run`` (finished items of the run itself) or ``complete``."""
    sampled: int = 0
    """Items whose numbers were resampled."""
    calls: Range | None = None
    prompt_tokens: Range | None = None
    completion_tokens: Range | None = None
    cost_usd: Range | None = None
    """None where no model of the stage has a price."""
    hours: Range | None = None
    """None where it was not looked at."""
    unpriced: list[str] = field(default_factory=list)
    """Models of the stage that have no price: they are counted as free."""


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


def estimate_run(config: Config, items: int) -> Estimate:
    """Hold a few requests, trees and cases with the configured engines and multiply.

    A stage of which the run folder has finished items is estimated from those. Nothing is written
    into the run folder; a probe's lies beside it and is removed.

    Args:
        items: trees, cases per policy, requests per pool.

    Raises:
        UserError: see `aloe.pipeline.prepare`.
        StageFailed: nothing of a probe was finished.
    """
    store = run_store(config)
    store.check_reachable()
    stages = [name for name in stages_of(config) if name in _SPEAKING]
    open_stages = [name for name in stages if not _complete(store, name)]
    own = {name: _SAMPLES[name](config, store) for name in _SAMPLES if name in open_stages}
    if "training/ppo" in open_stages:  # its episodes are like the benchmark's cases
        own.setdefault("evaluation", _SAMPLES["evaluation"](config, store))
    missing = [name for name, sample in own.items() if not _enough(sample)]
    samples, probe = dict(own), Usage()
    with ExitStack() as stack:
        if missing:
            beside = stack.enter_context(probed(config, store, missing, items))
            samples |= {name: _SAMPLES[name](config, beside) for name in missing}
            probe = sum(spent_by_stage(beside).values(), start=Usage())
    for name in missing:
        if not all(map(len, samples[name].values())):
            raise StageFailed(f"{name}: nothing of the probe was finished, so nothing is known")
    talking, benchmark = _personas_of(config, store)
    found = []
    for name in stages:
        if name not in open_stages:
            found.append(StageEstimate(name, 0, _SPEAKING[name], "complete"))
            continue
        key = "evaluation" if name == "training/ppo" else name
        source = "probe" if key in missing else "run"
        looked = _Looked(config, store, samples[key], source, items)
        match name:
            case "personas":
                found.append(_personas(looked))
            case "dialogue":
                found.append(_dialogue(looked, talking))
            case "training/ppo":
                found.append(_ppo(looked))
            case "evaluation":
                found.append(_evaluation(looked, benchmark))
    return Estimate(
        found,
        sum(spent_by_stage(store).values(), start=Usage()),
        probe,
        config.run.max_tokens,
        config.run.max_cost_usd,
    )


_SPEAKING = {
    "personas": "requests",
    "dialogue": "trees",
    "training/ppo": "episodes",
    "evaluation": "cases",
}
"""Stages in which models speak, and what they are counted in."""

Sample = dict[str, list[Any]]
"""Items by pool, by policy, or all under one name."""


@dataclass(frozen=True)
class _Looked:
    config: Config
    store: Store
    sample: Sample
    source: str
    probed: int
    """Items that a probe holds at once."""

    def estimate(
        self,
        stage: str,
        left: float,
        samples: Sequence[Floats],
        total: Callable[[Sequence[Floats]], Floats],
        models: Mapping[str, ModelConfig],
        actors: ActorPool | None,
    ) -> StageEstimate:
        """``total`` makes the six numbers of `aloe.estimate.numbers` of all that is left."""
        seed = derive_seed(self.config.run.seed, "estimate", stage)

        def all_numbers(drawn: Sequence[Floats]) -> Floats:
            sums = total(drawn)
            fast, slow = (0.0, 0.0) if actors is None else self._hours(left, sums, models, actors)
            return np.array([*sums[: numbers.PATH], fast, slow])

        calls, prompt, completion, usd, fast, slow = numbers.spread(samples, seed, all_numbers)
        unpriced = [name for name, model in models.items() if _unpriced(model)]
        priced = [model for model in models.values() if getattr(model, "price", None)]
        return StageEstimate(
            stage,
            left,
            _SPEAKING[stage],
            self.source,
            sum(map(len, samples)),
            calls,
            prompt,
            completion,
            usd if priced else None,
            None if actors is None else _between(fast, slow, models),
            unpriced,
        )

    def _hours(
        self, left: float, sums: Floats, models: Mapping[str, ModelConfig], actors: ActorPool
    ) -> tuple[float, float]:
        if not left:
            return 0.0, 0.0
        at_once = actors.max * most_open(actors, models.values())
        local = [model for model in models.values() if isinstance(model, VllmModel)]
        engines = min(
            (model.pool.replicas if model.pool else actors.max for model in local), default=1
        )
        open_then = self.probed if self.source == "probe" else at_once
        path, busy = sums[numbers.PATH] / left, sums[numbers.BUSY] / left
        most = min(open_then, most_open(actors, models.values()))
        return numbers.hours(left, path, busy, at_once, engines, most)


def _between(fast: Range, slow: Range, models: Mapping[str, ModelConfig]) -> Range:
    """A server is as fast for many; an engine of one's own is somewhere between the two."""
    if not any(isinstance(model, VllmModel) for model in models.values()):
        return fast
    low = fast.value if fast.low is None else fast.low
    high = slow.value if slow.high is None else slow.high
    return Range(float(np.sqrt(fast.value * slow.value)), low, high)


def _unpriced(model: ModelConfig) -> bool:
    return model.backend in ("openai", "vllm") and getattr(model, "price", None) is None


def _complete(store: Store, stage: str) -> bool:
    manifest = load_manifest(store, stage)
    return manifest is not None and manifest.complete


def _enough(sample: Sample) -> bool:
    return all(len(items) >= _ENOUGH for items in sample.values())


def _personas_of(config: Config, store: Store) -> tuple[int, int]:
    """Personas for dialogue and for the benchmark: the run's, else as many as can be."""
    manifest = load_manifest(store, "personas")
    if manifest is not None and manifest.complete:
        benchmark = manifest.counts.get("benchmark_personas", 0)
        return manifest.counts["personas"] - benchmark, benchmark
    starting = check_personas(config)
    sizes: dict[Kind, int] = {
        kind: max(
            growth_of(kind, config.personas).size,
            sum(len(outcome["candidates"]) for outcome in starting[kind]),
        )
        for kind in KINDS
    }
    return count_personas(sizes, config.personas)


def _growing(config: Config) -> list[Kind]:
    """Pools that the writer has to add to."""
    starting = check_personas(config)
    given = {kind: sum(len(outcome["candidates"]) for outcome in starting[kind]) for kind in KINDS}
    return [kind for kind in KINDS if given[kind] < growth_of(kind, config.personas).size]


def _rounds(store: Store, kind: Kind) -> list[Row]:
    rows: list[Row] = []
    for name in sorted(store.finished("personas", "rounds")):
        if name.startswith(f"{kind}-"):
            rows += store.read_table(f"personas/rounds/{name}.parquet", ROUNDS).to_pylist()
    return rows


def _requests(config: Config, store: Store) -> Sample:
    return {
        kind: [row for row in _rounds(store, kind) if row["round"] >= 0][-_MOST_SAMPLED:]
        for kind in _growing(config)
    }


def _personas(looked: _Looked) -> StageEstimate:
    config, settings = looked.config, looked.config.personas
    wanted, most = [], []
    for kind in (kind for kind in KINDS if kind in looked.sample):
        rows = _rounds(looked.store, kind)
        begun = 1 + max((row["round"] for row in rows), default=-1)
        there = sum(_joined(row, with_surplus=False) for row in rows) or len(
            _starting_texts(config, kind)
        )
        wanted.append(max(growth_of(kind, settings).size - there, 0))
        most.append((settings.max_rounds - begun) * settings.requests_per_round)
    samples = [
        np.array([[*numbers.in_a_row(row["calls"]), _joined(row)] for row in rows])
        for rows in looked.sample.values()
    ]

    def needed(drawn: Sequence[Floats]) -> list[float]:
        return [
            numbers.requests_needed(sample[:, -1], number, bound) if number else 0.0
            for sample, number, bound in zip(drawn, wanted, most, strict=True)
        ]

    def total(drawn: Sequence[Floats]) -> Floats:
        sums = [
            requests * sample[:, :-1].mean(axis=0)
            for requests, sample in zip(needed(drawn), drawn, strict=True)
        ]
        return np.sum([np.zeros(6), *sums], axis=0)

    models = speakers_of(config, [settings.writer])
    left = sum(needed(samples))
    return looked.estimate("personas", left, samples, total, models, settings.actors)


def _starting_texts(config: Config, kind: Kind) -> list[Any]:
    return [c for outcome in check_personas(config)[kind] for c in outcome["candidates"]]


def _joined(row: Row, with_surplus: bool = True) -> int:
    """Texts of a request that joined, or would have if the pool had not been full."""
    good = ("accepted", "surplus") if with_surplus else ("accepted",)
    return sum(candidate["verdict"] in good for candidate in row["candidates"])


def _trees(config: Config, store: Store) -> Sample:
    rows: list[Row] = []
    trees: set[str] = set()
    for name in sorted(store.finished("dialogue", "nodes")):
        columns = ["tree_id", "turn", "branch", "calls"]
        rows += store.read_table(f"dialogue/nodes/{name}.parquet", NODES, columns).to_pylist()
        trees = {row["tree_id"] for row in rows}
        if len(trees) >= _MOST_SAMPLED:
            break
    return {"": [[row for row in rows if row["tree_id"] == tree] for tree in sorted(trees)]}


def _dialogue(looked: _Looked, trees: int) -> StageEstimate:
    from aloe.dialogue.parts import total as done_so_far

    config = looked.config
    branches = branches_by_turn(config.dialogue)
    sample = np.array([numbers.of_tree(rows, branches) for rows in looked.sample[""]])
    done = done_so_far(looked.store)
    left = trees - done.trees - done.failed_trees
    models = speakers_of(config, list(config.roles.model_dump().values()))
    return looked.estimate(
        "dialogue",
        left,
        [sample],
        lambda drawn: left * drawn[0].mean(axis=0),
        models,
        config.dialogue.actors,
    )


def _cases(config: Config, store: Store) -> Sample:
    """Calls of each case, turn by turn, by policy that is probed."""
    found: Sample = {policy: [] for policy in policies_of(config)}
    if not store.finished("evaluation", "scores"):
        return found
    columns = ["case_id", "policy", "turn", "calls"]
    rows = store.read_table("evaluation/scores", SCORES, columns).to_pylist()
    cases: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        cases.setdefault((row["policy"], row["case_id"]), []).append(row)
    for (policy, _), turns in cases.items():
        if policy in found:
            turns.sort(key=lambda row: row["turn"])
            found[policy].append([row["calls"] for row in turns])
    return found


def _evaluation(looked: _Looked, benchmark: int) -> StageEstimate:
    config = looked.config
    cases = min(benchmark, config.evaluation.max_cases or benchmark)
    done = looked.store.finished("evaluation", "scores") | looked.store.finished(
        "evaluation", "errors"
    )
    policies = config.evaluation.policies
    left = max(len(policies) * cases - len(done), 0)
    share = left / (len(policies) * cases) if cases else 0.0
    like = policies_of(config)
    played = {
        name: share * cases * sum(speaks_like(target) == like[name] for target in policies.values())
        for name in looked.sample
    }
    samples = [
        np.array([numbers.in_a_row([call for turn in case for call in turn]) for case in found])
        for found in looked.sample.values()
    ]

    def total(drawn: Sequence[Floats]) -> Floats:
        parts = zip(drawn, played.values(), strict=True)
        return np.sum([number * sample.mean(axis=0) for sample, number in parts], axis=0)

    models: dict[str, ModelConfig] = {}
    for policy in policies:
        models |= cast_of(config, looked.store, policy)[1]
    actors = config.evaluation.actors
    return looked.estimate("evaluation", left, samples, total, models, actors)


def _ppo(looked: _Looked) -> StageEstimate:
    """User and judge of the episodes, by those of the cases; the policy's own engines are free."""
    config, options = looked.config, looked.config.training.ppo
    assert options is not None
    episodes = episodes_of(options)
    sample = np.array(
        [_episode(case, options) for found in looked.sample.values() for case in found]
    )
    roles = [config.roles.user, *([config.roles.judge] if options.rewards.judge else [])]
    return looked.estimate(
        "training/ppo",
        episodes,
        [sample],
        lambda drawn: episodes * drawn[0].mean(axis=0),
        speakers_of(config, roles),
        None,
    )


def episodes_of(options: PpoConfig) -> int:
    """Episodes of all updates and looks; the last update is looked at in any case."""
    every = options.eval_steps
    looks = 2 + ((options.updates - 1) // every if every else 0)
    return options.updates * options.batch_size + looks * options.eval_dialogues


def _episode(case: list[list[Row]], options: PpoConfig) -> Floats:
    """Its first message is there already; turns beyond those of a case are like its last."""
    calls = []
    for turn in range(options.turns):
        of_turn = case[min(turn, len(case) - 1)]
        calls += [call for call in of_turn if call["role"] == "user" and turn > 0]
        calls += [call for call in of_turn if call["role"] == "judge" and options.rewards.judge]
    return numbers.in_a_row(calls)


_SAMPLES: dict[str, Callable[[Config, Store], Sample]] = {
    "personas": _requests,
    "dialogue": _trees,
    "evaluation": _cases,
}
