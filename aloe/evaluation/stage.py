"""Measure policies on the held-out personas: every policy meets the same simulated users."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from itertools import zip_longest
from typing import Any

from aloe.config import Config, VllmModel, speaker_settings
from aloe.engines import check_models
from aloe.engines.account import Account
from aloe.engines.actors import most_open, reserve, run_rows
from aloe.engines.board import board
from aloe.engines.kept import plain
from aloe.engines.pool import await_pools, open_pools, pool_resources, pooled_models
from aloe.engines.start import imports_of
from aloe.errors import StageFailed, StageStopped, UserError
from aloe.evaluation.knowable import knowable
from aloe.evaluation.policies import cast_of, policy_model, stages_before
from aloe.evaluation.results import benchmark_results, by_twins, cases_by_policy
from aloe.evaluation.skills import skills
from aloe.evaluation.table import evaluation_table, skills_table
from aloe.evaluation.worker import OPEN, CaseWorker
from aloe.placement import engines_fit
from aloe.progress import console, meter
from aloe.roles import prompts_of
from aloe.runtime import connect, has_resources
from aloe.schema import ERRORS, PERSONAS, SCORES, derive_seed, stable_id
from aloe.storage import Manifest, Store, Usage, stage_manifest
from aloe.storage.slices import read_where
from aloe.verifiable.wordings import wordings_version

STAGE = "evaluation"

Row = dict[str, Any]


def evaluate_policies(config: Config, store: Store) -> Manifest:
    """Let each of ``evaluation.policies`` talk to the held-out personas and score its replies.

    Writes ``evaluation/scores/<case_id>.parquet`` or ``evaluation/errors/<case_id>.parquet`` for
    each case. What is there is not done again: a killed run loses only the cases that were open.
    The numbers are in the manifest's ``results``, see `benchmark_results`.

    Raises:
        UserError: a checkpoint or server is missing, or there are no held-out personas.
        StageFailed: more than ``run.max_error_rate`` of the cases failed, or all of one policy's.
        StageStopped: ``run.max_tokens`` or ``run.max_cost_usd`` is spent, or nobody could be asked,
            or nothing be written, any more; what open cases have finished is in
            ``evaluation/open/``, and they go on from there.
    """
    manifest = stage_manifest(
        store,
        STAGE,
        _settings(config, store),
        after=stages_before(config),
        resume=config.run.resume,
    )
    if manifest.complete:
        return manifest
    started = time.monotonic()
    heldout = _heldout(config, store)
    cases = {
        policy: _case_rows(heldout, policy, config.run.seed, manifest.fingerprint)
        for policy in config.evaluation.policies
    }
    with manifest.paused(store, started):
        _play(config, store, cases)
        failed = _check_failures(config, store, cases)
    store.remove(OPEN)
    scores = store.read_table(f"{STAGE}/scores", SCORES)
    errors = [
        store.read_table(f"{STAGE}/{folder}", ERRORS, ["calls"]) for folder in ("errors", "retried")
    ]
    calls = [
        call for table in (scores, *errors) for row in table["calls"].to_pylist() for call in row
    ]
    twins = {row["persona_id"]: row["twin_id"] for row in heldout if row["twin_id"]}
    finished = cases_by_policy(scores)
    units = {policy: by_twins(finished[policy], twins) for policy in cases}
    if alone := [policy for policy, found in units.items() if not found]:
        raise StageFailed(
            f"{', '.join(alone)}: of no pair of twins both cases are there, see "
            f"{store.url(STAGE, 'errors')}; --retry-failed tries them again"
        )
    results = benchmark_results(
        units,
        config.evaluation.baseline,
        config.evaluation.bootstrap_samples,
        config.evaluation.confidence,
        derive_seed(config.run.seed, "bootstrap"),
    )
    if twins:
        results["units"] = "twin pairs"
        results["knowable"] = knowable(config, store, scores, heldout)
    if config.personas.twins.planned:
        results["skills"] = skills(config, scores, heldout)
    console.print(evaluation_table(results))
    if "skills" in results:
        console.print(skills_table(results["skills"]))
    return manifest.finish(
        store,
        started,
        usage=Usage.of_calls(calls),
        counts={"cases": sum(map(len, cases.values())) - failed, "failed_cases": failed},
        results=results,
    )


def retry_failed(store: Store) -> int:
    """Let failed cases be owed again; what they cost stays counted. Returns how many there are."""
    failed = sorted(store.finished(STAGE, "errors"))
    for case in failed:
        rows = store.read_table(f"{STAGE}/errors/{case}.parquet", ERRORS).to_pylist()
        # By its content: a kill before the next lines leads to the same file again.
        name = f"{case}-{stable_id(rows)}"
        store.write_table(f"{STAGE}/retried/{name}.parquet", rows, ERRORS)
        store.remove(f"{STAGE}/errors/{case}.parquet")
    return len(failed)


def _settings(config: Config, store: Store) -> Row:
    policies, prompts = {}, prompts_of(config)
    for name, target in config.evaluation.policies.items():
        policies[name] = speaker_settings(policy_model(config, store, target))
        if not target.startswith("model:"):
            policies[name]["path"] = target  # the same wherever the run folder lies
        policies[name] |= config.evaluation.condition(name).model_dump(mode="json")
    return {
        "seed": config.run.seed,
        "evaluation": config.evaluation.model_dump(mode="json", exclude={"actors", "prompts"}),
        "user": speaker_settings(config.models[config.roles.user]),
        "judge": speaker_settings(config.models[config.roles.judge]),
        "policies": policies,
        "prompts": [prompts.version("dialogue"), prompts.version("evaluation")],
        **prompts.settings(),
        **config.judge.settings(),
        **({"words": wordings_version()} if config.personas.twins.planned else {}),
    }


def _heldout(config: Config, store: Store) -> list[Row]:
    """The personas that every policy meets."""
    file = "personas/personas.parquet"
    heldout = read_where(store, file, PERSONAS, "split", "benchmark").to_pylist()
    if not heldout:
        raise UserError(
            f"{store.url(file)}: no persona with split 'benchmark', "
            "expected at least one to evaluate on"
        )
    most = config.evaluation.max_cases or len(heldout)
    if most < len(heldout):
        draw = random.Random(derive_seed(config.run.seed, "cases"))
        units: dict[str, list[Row]] = {}
        for persona in sorted(heldout, key=lambda persona: str(persona["persona_id"])):
            units.setdefault(persona["twin_id"] or persona["persona_id"], []).append(persona)
        size = max(map(len, units.values()))
        heldout = [row for unit in draw.sample(sorted(units), most // size) for row in units[unit]]
    return heldout


def _case_rows(heldout: list[Row], policy: str, seed: int, fingerprint: str) -> list[Row]:
    """One row per case of a policy."""
    return [
        {
            "case_id": stable_id(policy, persona["persona_id"], seed, fingerprint),
            **{key: persona[key] for key in ("persona_id", "profile", "personality")},
            "preferences": " ".join(persona["preferences"] or ()),
            "twin_id": persona["twin_id"] or "",
        }
        for persona in heldout
    ]


def _play(config: Config, store: Store, cases: dict[str, list[Row]]) -> None:
    """Play what is missing, one policy after the other.

    Simulator and judge keep their engines for all of them; of the policies only one has engines at
    a time.

    Raises:
        StageStopped: a limit is reached.
    """
    done = store.finished(STAGE, "scores") | store.finished(STAGE, "errors")
    todo = {
        policy: missing
        for policy, rows in cases.items()
        if (missing := [row for row in rows if row["case_id"] not in done])
    }
    if not todo:
        return
    account = Account(config, store, STAGE)
    begun = store.finished(OPEN)
    casts = {policy: cast_of(config, store, policy)[1] for policy in todo}
    everyone = {name: model for cast in casts.values() for name, model in cast.items()}
    check_models(everyone.values(), servers=False)
    connect(config.ray, imports_of(everyone.values()))
    actors = config.evaluation.actors
    pooled = pooled_models(everyone, actors)
    asked = Counter(
        plain(pooled[name]) for cast in casts.values() for name in cast if name in pooled
    )
    lasting = {
        name: model
        for name, model in pooled.items()
        if name in config.models or asked[plain(model)] > 1
    }
    own = {
        policy: {name: pooled[name] for name in cast if name in pooled.keys() - lasting.keys()}
        for policy, cast in casts.items()
    }
    # Of all policies, before the first is played.
    gpus = {
        policy: reserve(config.ray, "evaluation.actors", actors, cast, lasting | own[policy])
        for policy, cast in casts.items()
    }
    total, left = sum(map(len, cases.values())), sum(map(len, todo.values()))
    with (
        open_pools(lasting, config.storage, wait=False, alone=len(pooled) == 1) as pools,
        meter("benchmark cases", total, total - left, config.evaluation.turns, account) as advance,
        board(advance, account) as link,
        ExitStack() as engines,
    ):
        coming = engines.enter_context(open_pools(own[next(iter(todo))], config.storage, False))
        for policy, following in zip_longest(todo, list(todo)[1:]):
            with engines.pop_all():  # those of this policy are closed when it has been played
                own_pools = coming
                await_pools({**pools, **own_pools})
                if following and _room_beside(config, lasting, own, policy, following, gpus):
                    coming = engines.enter_context(
                        open_pools(own[following], config.storage, wait=False)
                    )
                arguments = {
                    "config": config,
                    "store": store,
                    "policy": policy,
                    "pools": {**pools, **own_pools},
                    "board": link,
                }
                in_flight = most_open(actors, casts[policy].values())
                rows = [row | {"begun": row["case_id"] in begun} for row in todo[policy]]
                stopped, fault = False, ""
                for row in run_rows(rows, CaseWorker, arguments, actors, gpus[policy], in_flight):
                    advance(int(row["ended"]))
                    stopped, fault = stopped or not row["ended"], fault or str(row["fault"])
                if stopped:
                    raise StageStopped(f"{STAGE}: {fault}") if fault else account.stopped()
            if following and coming is own_pools:
                coming = engines.enter_context(open_pools(own[following], config.storage, False))


def _room_beside(
    config: Config,
    lasting: Mapping[str, VllmModel],
    own: Mapping[str, Mapping[str, VllmModel]],
    policy: str,
    following: str,
    gpus: Mapping[str, float],
) -> bool:
    """Whether the following policy's engines have room beside those that play now."""
    actors = config.evaluation.actors
    at_once = {**lasting, **own[policy], **own[following]}
    pool_gpus, pool_cpus = pool_resources(at_once)
    all_gpus = actors.min * gpus[policy] + pool_gpus
    all_cpus = actors.min * actors.num_cpus + pool_cpus
    return has_resources(all_gpus, all_cpus) and engines_fit(own[following].values())


def _check_failures(config: Config, store: Store, cases: dict[str, list[Row]]) -> int:
    """Number of failed cases, if they are few enough."""
    failed_ids = store.finished(STAGE, "errors")
    failed = {
        policy: sum(row["case_id"] in failed_ids for row in rows) for policy, rows in cases.items()
    }
    total, all_failed = sum(map(len, cases.values())), sum(failed.values())
    empty = [policy for policy, rows in cases.items() if failed[policy] == len(rows)]
    if empty or all_failed > config.run.max_error_rate * total:
        which = f" (every case of {', '.join(empty)})" if empty else ""
        folder = store.url(STAGE, "errors")
        raise StageFailed(
            f"{all_failed} of {total} benchmark cases failed{which}, see {folder}; "
            "--retry-failed tries them again"
        )
    return all_failed
