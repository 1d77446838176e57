"""Roll out one tree per persona on Ray Data actors; each turn is kept when it is finished."""

from __future__ import annotations

import time
from typing import Any

from aloe.config import Config, speaker_settings, speakers_of
from aloe.dialogue import parts
from aloe.dialogue.branches import turns_per_tree
from aloe.dialogue.log import STAGE, WINDOW_S
from aloe.dialogue.parts import Plan
from aloe.dialogue.start import check_start, write_starts
from aloe.dialogue.worker import RolloutWorker
from aloe.engines.account import Account
from aloe.engines.actors import most_open, reserve, run_rows
from aloe.engines.board import board
from aloe.engines.pool import open_pools, pooled_models
from aloe.engines.start import imports_of
from aloe.errors import StageFailed, StageStopped
from aloe.interrupt import ending_after
from aloe.progress import meter, say
from aloe.roles import prompts_of
from aloe.runtime import connect
from aloe.storage import Manifest, Store, stage_manifest
from aloe.storage.s3 import is_s3
from aloe.verifiable.wordings import wordings_version

_INDIFFERENT = {"actors", "part_size", "prompts", "start"}
"""Keys that do not decide what is said; of prompts their version does."""
_UPLOAD_S = 1.0
_TRUNCATED_SHARE = 0.05
"""Share of replies that max_tokens ended, beyond which a rollout says so."""


def rollout_dialogues(config: Config, store: Store) -> Manifest:
    """Grow a tree for every persona that is not kept for the benchmark.

    Writes the files that `aloe.dialogue.parts` names. What is there is not done again: a killed
    rollout goes on from the last finished turn of each open tree.

    Raises:
        UserError: a conversation of ``dialogue.start`` cannot be gone on with.
        StageFailed: more than ``run.max_error_rate`` of the turns are missing.
        StageStopped: ``run.max_tokens`` or ``run.max_cost_usd`` is spent, or nobody could be asked,
            or nothing be written, any more; finished turns are kept.
    """
    manifest = stage_manifest(
        store, STAGE, _settings(config), after=["personas"], resume=config.run.resume
    )
    if manifest.complete:
        return manifest
    started = time.monotonic()
    plan = parts.begin_plan(store, config.dialogue)
    write_starts(config, store, plan)
    todo = parts.missing_parts(store, plan)
    with manifest.paused(store, started):
        if todo:
            account = Account(config, store, STAGE)
            fault = _roll_out(config, store, plan, todo, manifest.fingerprint, account)
            if parts.missing_parts(store, plan):
                raise StageStopped(f"{STAGE}: {fault}") if fault else account.stopped()
        done = parts.total(store)
        owed = plan.trees * turns_per_tree(config.dialogue)
        verdict = (
            f"{done.failed_turns} of {owed} turns failed, {done.failed_trees} of {plan.trees} "
            f"trees have none at all (run.max_error_rate {config.run.max_error_rate:g})"
        )
        if done.failed_turns > config.run.max_error_rate * owed:
            raise StageFailed(
                f"{verdict}, see {store.url(STAGE, 'errors')}; --retry-failed tries them again"
            )
    if done.failed_turns:
        say(f"{STAGE}: {verdict}, see {store.url(STAGE, 'errors')}")
    store.remove(STAGE, "open")
    _say_economy(done)
    _say_truncated(done)
    return manifest.finish(
        store,
        started,
        usage=done.usage,
        counts={
            "trees": done.trees,
            "nodes": done.nodes,
            "comparisons": done.comparisons,
            "truncated": done.truncated,
            "selected": done.selected,
            "ties": done.ties,
            "failed_trees": done.failed_trees,
            "failed_turns": done.failed_turns,
            "context_ends": done.context_ends,
        },
        results=_verdicts(done),
    )


def _verdicts(done: parts.Summary) -> dict[str, Any]:
    """How far the judge can be believed. What is even in both orders says nothing about it."""
    decided = done.comparisons - done.even
    results: dict[str, Any] = {"judge_agreement": done.agreements / decided if decided else None}
    if done.voted:
        results |= {
            "comparisons_by_votes": done.voted,
            "vote_variance": done.vote_variance / done.voted,
        }
    return results


def _settings(config: Config) -> dict[str, Any]:
    roles, prompts = config.roles.model_dump(), prompts_of(config)
    return {
        "seed": config.run.seed,
        "dialogue": config.dialogue.model_dump(mode="json", exclude=_INDIFFERENT),
        "start": check_start(config),
        "roles": {role: speaker_settings(config.models[name]) for role, name in roles.items()},
        "prompts": prompts.version("dialogue"),
        **prompts.settings(),
        **config.judge.settings(),
        **({"wordings": wordings_version()} if config.personas.twins.planned else {}),
    }


def _roll_out(
    config: Config,
    store: Store,
    plan: Plan,
    todo: list[int],
    fingerprint: str,
    account: Account,
) -> str:
    """What of the world stopped it, in words; empty if nothing did."""
    models = speakers_of(config, list(config.roles.model_dump().values()))
    actors = config.dialogue.actors
    connect(config.ray, imports_of(models.values()))
    pooled = pooled_models(models, actors)
    gpus = reserve(config.ray, "dialogue.actors", actors, models, pooled)
    # One more than is needed, so that the next part's personas are there when a tree ends.
    in_flight = -(-most_open(actors, models.values()) // plan.part_size) + 1
    before = parts.total(store)
    with (
        open_pools(pooled, config.storage, alone=True) as pools,
        meter(
            "dialogue trees",
            plan.trees,
            before.trees + before.failed_trees,
            turns_per_tree(config.dialogue),
            account,
        ) as advance,
        board(advance, account) as link,
    ):
        arguments = {
            "config": config,
            "store": store,
            "fingerprint": fingerprint,
            "plan": plan,
            "pools": pools,
            "board": link,
        }
        rows = [{"part": part} for part in todo]
        fault = ""
        # What is finished when SIGTERM comes is in an object store that much later.
        with ending_after(WINDOW_S + _UPLOAD_S if is_s3(store.root) else 0.0):
            for row in run_rows(rows, RolloutWorker, arguments, actors, gpus, in_flight):
                advance(int(row["trees"]))
                fault = fault or str(row["fault"])
    return fault


def _say_truncated(done: parts.Summary) -> None:
    if done.truncated > _TRUNCATED_SHARE * done.replies:
        say(
            f"{STAGE}: warning: {done.truncated} of {done.replies} replies were ended by "
            "dialogue.sampling.max_tokens",
            truncated=done.truncated,
        )


def _say_economy(done: parts.Summary) -> None:
    """How much of the prompts came from the prefix cache, beside the most that could have."""
    usage = done.usage
    if usage.reusable_tokens:
        say(
            f"{STAGE}: {usage.cached_tokens / usage.prompt_tokens:.1%} of the prompt tokens came "
            f"from the prefix cache; at best {usage.reusable_tokens / usage.prompt_tokens:.1%}",
            cached_tokens=usage.cached_tokens,
            reusable_tokens=usage.reusable_tokens,
            prompt_tokens=usage.prompt_tokens,
        )
