"""How much the users of a benchmark have told of themselves, and how well it could be used."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from aloe.config import Config
from aloe.evaluation.metrics import FloatArray
from aloe.evaluation.policies import persona_under
from aloe.evaluation.probe import read_told, train_probe
from aloe.evaluation.results import by_turn, by_twins, on_scale, policy_numbers
from aloe.schema import derive_seed
from aloe.storage import Store
from aloe.verifiable import beliefs, best_share, nats, types

Row = dict[str, Any]
Exchange = tuple[Any, ...]
"""What the user said and what the policy answered."""
Known = tuple[Sequence[float], Sequence[float]]
"""By turn: nats of information about the user's type in its messages so far, and the share of its
preferences that the best reply to them meets: expected, or of who goes by a probe."""
Observer = Callable[[Row, str, Sequence[Exchange]], Known]
"""Of a persona, the policy that talked with it, and all exchanges."""


def knowable(
    config: Config, store: Store, scores: pa.Table, heldout: Iterable[Row]
) -> dict[str, Any]:
    """Of each policy's conversations what an observer of them knows by turn (issue 19).

    Exact for a user that is a program, by Bayes' rule (`aloe.verifiable.knowledge`). What other
    users let show is estimated by a probe that is trained on the run's dialogues
    (`aloe.evaluation.probe`): the information that it finds, which is at most what there is.

    Args:
        scores: rows of `aloe.schema.SCORES`.
        heldout: rows of PERSONAS that were met.

    Returns:
        ``{"by": "program" or "probe", "entropy": nats, "policies": {name: {"nats": curve, "best":
        curve}}}``. A curve has a number with its interval per turn: nats, and AL*, the best level
        that a reply can be expected to have, on the judge's scale.
    """
    twins, settings = config.personas.twins, config.evaluation
    people = {row["persona_id"]: row for row in heldout}
    pairs = {name: row["twin_id"] for name, row in people.items()}
    exact = twins.hints == "program"
    observe = _by_program(config) if exact else _by_probe(config, store)
    policies = {}
    for policy, cases in by_turn(scores, ["user", "reply"]).items():
        known = {name: observe(people[name], policy, said) for name, said in cases.items()}
        told = {name: np.array(numbers) for name, (numbers, _) in known.items()}
        best = {name: on_scale(np.array(shares)) for name, (_, shares) in known.items()}
        policies[policy] = {
            key: policy_numbers(
                by_twins(values, pairs),
                settings.bootstrap_samples,
                settings.confidence,
                derive_seed(config.run.seed, "bootstrap"),
            )["al"]
            for key, values in (("nats", told), ("best", best))
        }
    entropy = float(np.log(len(types(twins.pairs, twins.count))))
    return {"by": "program" if exact else "probe", "entropy": entropy, "policies": policies}


def _by_program(config: Config) -> Observer:
    twins = config.personas.twins
    every = types(twins.pairs, twins.count)

    def observe(row: Row, policy: str, said: Sequence[Exchange]) -> Known:
        person = persona_under(config, policy, row)
        replies = [reply for _, reply in said]
        known = beliefs(every, person.planned_after(replies[:-1]), replies)
        told = [nats(every, belief, person.preferences) for belief in known]
        return told, [best_share(belief) for belief in known]

    return observe


def _by_probe(config: Config, store: Store) -> Observer:
    twins = config.personas.twins
    probe = train_probe(read_told(store), twins.pairs, derive_seed(config.run.seed, "probe"))

    def observe(row: Row, _: str, said: Sequence[Exchange]) -> Known:
        messages = [user for user, _ in said]
        so_far = [" ".join(messages[: turn + 1]) for turn in range(len(messages))]
        return _of_probabilities(row["preferences"], probe(so_far))

    return observe


def _of_probabilities(kinds: Sequence[str], found: Mapping[str, FloatArray]) -> Known:
    """From P(kind) by turn, float64 (turns,) for each kind that the person may like."""
    liked = np.stack([found[kind] for kind in kinds])
    told = np.log(2 * liked).sum(axis=0)
    # Whoever goes by the probe is right where it is, not where it is sure.
    met = np.where(np.isclose(liked, 0.5), 0.5, liked > 0.5).mean(axis=0)
    return list(told), list(met)
