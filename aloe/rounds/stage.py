"""Rounds of rollout and training, each a run folder of its own in ``training/rounds/``.

A round's policy talks from the conversation alone; of several of its replies the one that suits
best what was hinted at goes on. SFT learns these replies, or DPO twin pairs among them, and the
next round begins with what was learned.
"""

from __future__ import annotations

import random
import time
from typing import Any

from aloe.config import Config, SelectConfig, VllmModel, speaker_settings
from aloe.config.training import RoundsConfig
from aloe.dialogue import rollout_dialogues
from aloe.engines.account import tokens_of
from aloe.errors import StageStopped, UserError
from aloe.preferences import build_preferences
from aloe.progress import say
from aloe.roles import prompts_of
from aloe.rounds.levels import rollout_levels
from aloe.schema import PERSONAS, derive_seed, stable_id
from aloe.storage import Manifest, Store, Usage, stage_manifest
from aloe.storage.spending import note_spent, spent_by_stage
from aloe.storage.tables import new_table
from aloe.training import train_dpo, train_sft
from aloe.verifiable.wordings import wordings_version

STAGE = "training/rounds"

_POLICY = "round policy"
_PERSONAS = "personas/personas.parquet"


def train_rounds(config: Config, store: Store) -> Manifest:
    """Let the policy of ``training.rounds.start_from`` train itself, round by round.

    Every round is ``training/rounds/NN/`` with the stages personas (the run's, with other things to
    talk of), dialogue, preferences and training; each goes on where it was killed. The results hold
    the curve of each round's rollout.

    Raises:
        UserError: an earlier stage is missing.
        StageFailed, StageStopped: as the stages of a round.
    """
    rounds = config.training.rounds
    if rounds is None:
        raise UserError("training.rounds: not set, expected a section")
    prompts = prompts_of(config)
    speaking = {role: getattr(config.roles, role) for role in ("user", "inducer", "unguided")}
    settings = {
        "seed": config.run.seed,
        "rounds": rounds.model_dump(mode="json"),
        "base": config.training.base,
        **{
            kind: options.model_dump(mode="json") if options else None
            for kind, options in _options(config, rounds).items()
        },
        "roles": {role: speaker_settings(config.models[name]) for role, name in speaking.items()},
        "prompts": prompts.version("dialogue"),
        "wordings": wordings_version(),
        "dialogue": config.dialogue.model_dump(
            mode="json", exclude={"actors", "prompts", "select"}
        ),
        "preferences": config.preferences.model_dump(mode="json"),
    }
    after = ["personas"] if rounds.start_from == "base" else ["personas", "training/sft"]
    if config.dialogue.select is not None:  # whose curve stands beside those of the rounds
        after.append("dialogue")
    manifest = stage_manifest(store, STAGE, settings, after=after, resume=config.run.resume)
    if manifest.complete:
        return manifest
    started = time.monotonic()
    curves: dict[str, Any] = {}
    usage = Usage()
    if config.dialogue.select is not None:
        curves["teacher"] = rollout_levels(config, store)
    with manifest.paused(store, started):
        for number in range(1, len(rounds.steps) + 1):
            inner = _round_config(config, store, rounds, number)
            folder = Store(inner.run.dir, store.options)
            _write_personas(store, folder, rounds, number, manifest.fingerprint)
            for stage in (rollout_dialogues, build_preferences, _training(rounds, number)):
                try:
                    stage(inner, folder)
                finally:  # what a round has spent counts for all stages of the run
                    usage = _spent(store, number)
                    note_spent(store, STAGE, usage)
            curves[f"round {number}"] = levels = rollout_levels(inner, folder)
            say(
                f"{STAGE}: round {number} of {len(rounds.steps)}: its rollout rose by "
                f"{levels['ir']['value']:.3f} a turn to {levels['al'][-1]['value']:.2f}",
                round=number,
                levels=levels,
            )
    return manifest.finish(
        store, started, usage=usage, counts={"rounds": len(rounds.steps)}, results=_told(curves)
    )


def _told(curves: dict[str, Any]) -> dict[str, Any]:
    """Results: the level of the first and the last turn of each rollout, and the whole curves."""
    results: dict[str, Any] = {"curves": curves}
    for name, numbers in curves.items():
        for when, level in (("before", numbers["al"][0]), ("after", numbers["al"][-1])):
            results[f"level of {name}_{when}"] = level["value"]
            results[f"level of {name}_interval_{when}"] = [level["low"], level["high"]]
    return results


def _training(rounds: RoundsConfig, number: int) -> Any:
    return {"sft": train_sft, "dpo": train_dpo}[rounds.steps[number - 1]]


def _round_config(config: Config, store: Store, rounds: RoundsConfig, number: int) -> Config:
    """The configuration of one round: the policy of the one before rolls out and is trained."""
    begun = store.url(config.training.checkpoint_before_round(number))
    base = config.training.base if rounds.start_from == "base" and number == 1 else begun
    served = config.models[config.roles.unguided]
    assert isinstance(served, VllmModel)  # checked with the configuration
    twins = config.preferences.twins or rounds.steps[number - 1] == "dpo"
    options = _options(config, rounds)
    pairs = options["dpo"] if rounds.steps[number - 1] == "dpo" else None
    elsewhere = {name: usage for name, usage in spent_by_stage(store).items() if name != STAGE}
    spent = sum(elsewhere.values(), start=_spent(store, number - 1))
    return config.model_copy(
        update={
            "run": config.run.model_copy(
                update={
                    "dir": store.url(f"{STAGE}/{number:02d}"),
                    "seed": derive_seed(config.run.seed, "round", number),
                    **_limits(config, spent),
                }
            ),
            "models": {**config.models, _POLICY: served.model_copy(update={"path": base})},
            "roles": config.roles.model_copy(update={"guided": _POLICY, "unguided": _POLICY}),
            "dialogue": config.dialogue.model_copy(
                update={
                    "select": SelectConfig(samples=rounds.samples, slips=rounds.slips, guided=False)
                }
            ),
            "preferences": config.preferences.model_copy(update={"twins": twins}),
            "training": config.training.model_copy(
                update={
                    "base": base,
                    "sft": options["sft"],
                    "dpo": pairs.model_copy(update={"start_from": "base"}) if pairs else None,
                    "rounds": None,
                }
            ),
        }
    )


def _options(config: Config, rounds: RoundsConfig) -> dict[str, Any]:
    """Settings of the trainings in rounds, by kind; None where there is no such one."""
    return {
        "sft": rounds.sft or config.training.sft,
        "dpo": (rounds.dpo or config.training.dpo) if "dpo" in rounds.steps else None,
    }


def _spent(store: Store, rounds: int) -> Usage:
    """What the first so many rounds have spent, over all starts."""
    folders = [Store(store.url(f"{STAGE}/{n:02d}"), store.options) for n in range(1, rounds + 1)]
    spent = [usage for folder in folders for usage in spent_by_stage(folder).values()]
    return sum(spent, start=Usage())


def _limits(config: Config, spent: Usage) -> dict[str, Any]:
    """What of the run's limits is left for a round.

    Raises:
        StageStopped: nothing is.
    """
    left: dict[str, Any] = {}
    for name, value in (("max_tokens", tokens_of(spent)), ("max_cost_usd", spent.cost_usd)):
        limit = getattr(config.run, name)
        if limit is not None:
            if limit <= value:
                raise StageStopped(f"run.{name}: {limit} are spent")
            left[name] = limit - value
    return left


def _write_personas(
    store: Store, folder: Store, rounds: RoundsConfig, number: int, fingerprint: str
) -> None:
    """The run's personas without the benchmark's, each with other things to talk of."""
    settings = {"rounds": fingerprint, "round": number}
    manifest = stage_manifest(folder, "personas", settings, resume="always")
    if manifest.complete:
        return
    started = time.monotonic()
    rows = store.read_table(_PERSONAS, PERSONAS).to_pylist()
    chosen = _drawn(rows, rounds.conversations, derive_seed(fingerprint, number))
    with new_table(folder, _PERSONAS, PERSONAS) as add:
        add([row | {"twin_id": stable_id(row["twin_id"], "round", number)} for row in chosen])
    manifest.finish(folder, started)


def _drawn(rows: list[dict[str, Any]], most: int | None, seed: int) -> list[dict[str, Any]]:
    """Who talks in a round: everyone held out from training, and of the others whole pairs."""
    held_out = [row for row in rows if row["split"] == "validation"]
    twins = list(dict.fromkeys(row["twin_id"] for row in rows if row["split"] == "train"))
    left = len(twins) if most is None else max((most - len(held_out)) // 2, 1)
    drawn = set(random.Random(seed).sample(twins, min(left, len(twins))))
    return [row for row in rows if row["split"] == "train" and row["twin_id"] in drawn] + held_out
