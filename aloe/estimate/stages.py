"""What is left of each stage: how many items by the configuration, times what items take."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from aloe.config import ActorPool, Config, ModelConfig, PpoConfig, VllmModel, speakers_of
from aloe.dialogue.branches import branches_by_turn, nodes_per_turn
from aloe.dialogue.parts import total as done_so_far
from aloe.engines.actors import most_open
from aloe.estimate import numbers
from aloe.estimate.numbers import Floats, Range
from aloe.estimate.probe import policies_of, speaks_like
from aloe.estimate.samples import Row, Sample, rounds_of
from aloe.evaluation.policies import cast_of
from aloe.personas import check_personas
from aloe.personas.growth import growth_of
from aloe.personas.lexicon import KINDS, Kind
from aloe.schema import derive_seed
from aloe.storage import Store

SPEAKING = {
    "personas": "requests",
    "dialogue": "trees",
    "training/rounds": "conversations",
    "training/ppo": "episodes",
    "evaluation": "cases",
}
"""Stages in which models speak, and what they are counted in."""


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
class Looked:
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
            SPEAKING[stage],
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


def estimate_personas(looked: Looked) -> StageEstimate:
    """Requests until both pools are full."""
    config, settings = looked.config, looked.config.personas
    wanted, most = [], []
    for kind in (kind for kind in KINDS if kind in looked.sample):
        rows = rounds_of(looked.store, kind)
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

    models = speakers_of(config, settings.writers)
    left = sum(needed(samples))
    return looked.estimate("personas", left, samples, total, models, settings.actors)


def _starting_texts(config: Config, kind: Kind) -> list[Any]:
    return [c for outcome in check_personas(config)[kind] for c in outcome["candidates"]]


def _joined(row: Row, with_surplus: bool = True) -> int:
    """Texts of a request that joined, or would have if the pool had not been full."""
    good = ("accepted", "surplus") if with_surplus else ("accepted",)
    return sum(candidate["verdict"] in good for candidate in row["candidates"])


def estimate_dialogue(looked: Looked, trees: int) -> StageEstimate:
    """Trees that have not ended; ``trees`` in all."""
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


def estimate_rounds(looked: Looked, trees: int) -> StageEstimate:
    """Conversations of all rounds, like the trees of the dialogue but for their replies.

    Rounds that are complete are counted too, as a round's conversations cost what they did before.
    """
    config, rounds = looked.config, looked.config.training.rounds
    assert rounds is not None
    left = len(rounds.steps) * min(rounds.conversations or trees, trees)
    branches = branches_by_turn(config.dialogue)
    replies = nodes_per_turn(config.dialogue) - 1
    sample = np.array([numbers.of_tree(rows, branches) for rows in looked.sample[""]])
    return looked.estimate(
        "training/rounds",
        left,
        [sample],
        lambda drawn: left * drawn[0].mean(axis=0) * rounds.samples / replies,
        speakers_of(config, [config.roles.user, config.roles.inducer, config.roles.unguided]),
        config.dialogue.actors,
    )


def estimate_evaluation(looked: Looked, benchmark: int) -> StageEstimate:
    """Cases that have not ended; ``benchmark`` personas are held out."""
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


def estimate_ppo(looked: Looked) -> StageEstimate:
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
