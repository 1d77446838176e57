"""Grow the two pools from their seeds, then pair them into personas (paper, section 2.1)."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from aloe.config import Config, PersonasConfig, language_of, speaker_settings, speakers_of
from aloe.engines.account import Account
from aloe.engines.actors import most_open, reserve, run_rows
from aloe.engines.board import board
from aloe.engines.pool import Pools, await_pools, open_pools, pooled_models
from aloe.engines.start import imports_of
from aloe.errors import StageFailed, StageStopped, UserError
from aloe.personas.encode import EMBEDDED, check_encoder
from aloe.personas.growth import GrowingPool, growth_of, pool_of
from aloe.personas.keeper import PoolKeeper
from aloe.personas.lexicon import IN_PROMPTS, KINDS, Kind, Lexicon
from aloe.personas.pairing import Member, Persona, check_sizes, pair_pools
from aloe.personas.pool_files import ids_of, read_pool_files
from aloe.personas.rounds import (
    Record,
    read_rounds,
    record_of,
    round_names,
    without_failed_end,
)
from aloe.personas.seeds import FILES, built_in_seeds, read_seeds
from aloe.personas.taking import look_at_given, write_given
from aloe.personas.worker import PersonaWriter
from aloe.personas.writing import Candidate, Outcome
from aloe.progress import meter, say
from aloe.roles import prompts_of
from aloe.runtime import connect
from aloe.schema import ERRORS, PERSONAS, POOL, stable_id
from aloe.storage import Manifest, Store, stage_manifest

STAGE = "personas"

_SECTION: dict[Kind, str] = {"profile": "profiles", "personality": "personalities"}
_INDIFFERENT = {"actors", "prompts", "seeds", "given", "heldout_personas"}
"""Keys that do not decide who is written; what lies behind prompts and seeds does."""
_KEEPER_CPUS = 1.0

Starting = dict[Kind, list[Outcome]]


def expand_personas(config: Config, store: Store) -> Manifest:
    """Grow both pools by the writer's own examples and write personas in three splits.

    Writes ``personas/rounds/`` while it goes, then ``profiles.parquet``, ``personalities.parquet``
    (`aloe.schema.POOL`), ``personas.parquet`` (PERSONAS) and ``errors/`` (ERRORS). A decided round
    is never asked for again.

    Where ``personas.given`` names whole personas, they are written as they are, without pools.

    Raises:
        UserError: a persona file is not readable, or a pool is too small for what is held out.
        StageFailed: more than ``run.max_error_rate`` of the requests failed.
        StageStopped: ``run.max_tokens`` or ``run.max_cost_usd`` is spent (begun rounds are kept),
            or nobody could be asked, or nothing be written, any more.
    """
    if config.personas.given:
        return _take_given(config, store)
    starting = check_personas(config)
    manifest = stage_manifest(store, STAGE, _settings(config, starting), resume=config.run.resume)
    if manifest.complete:
        return manifest
    started = time.monotonic()
    _say_what_is_english(config)
    names = {kind: without_failed_end(store, part) for kind, part in round_names(store).items()}
    pools = _pools(config, store, names)
    if not all(pool.stopped() for pool in pools.values()):
        with manifest.paused(store, started):
            account = Account(config, store, STAGE)
            fault = _grow(config, store, names, pools, starting, account)
            names = round_names(store)
            pools = _pools(config, store, names)
            if not all(pool.stopped() for pool in pools.values()):
                raise StageStopped(f"{STAGE}: {fault}") if fault else account.stopped()
    record = record_of(read_rounds(store, (name for kind in sorted(KINDS) for name in names[kind])))
    failed = _write_errors(store, record)
    if failed > config.run.max_error_rate * record.asked:
        manifest.pause(store, started)
        raise StageFailed(
            f"{failed} of {record.asked} requests to the writer failed, see "
            f"{store.url(STAGE, 'errors')}; the last: {record.failed[-1]['error_message']}"
        )
    members = with_given_ids(record.members, config.personas)
    personas = _pair(config, members)
    _write_pools(store, members, personas)
    rolled_out = sum(persona.split != "benchmark" for persona in personas)
    store.write_table(
        f"{STAGE}/personas.parquet",
        [persona.row() for persona in personas],
        PERSONAS,
        row_group=config.dialogue.trees_per_part(rolled_out),  # read part by part
    )
    return manifest.finish(
        store,
        started,
        usage=record.usage,
        counts=_counts(record, personas),
        results={"stopped": {kind: pool.stopped() for kind, pool in pools.items()}},
    )


def check_personas(config: Config) -> Starting:
    """What can be checked without a model; returns what the pools start with, if there are any.

    Raises:
        UserError: see `expand_personas`, and `aloe.personas.encode.check_encoder`.
    """
    if config.personas.given:
        look_at_given(config)
        return {}
    check_encoder(config.personas.encoder)
    prompts_of(config)
    starting = starting_texts(config)
    sizes = {
        kind: max(
            growth_of(kind, config.personas).size,
            sum(len(outcome["candidates"]) for outcome in outcomes),
        )
        for kind, outcomes in starting.items()
    }
    check_sizes(sizes, config.personas)
    with_given_ids([], config.personas)
    return starting


def starting_texts(config: Config) -> Starting:
    """Seeds, then files, in the order of `aloe.personas.growth.START_SOURCES`.

    The built-in seeds are English: where people are not, they do not join.

    Raises:
        UserError: a file cannot be read, or a pool would start with nobody.
    """
    personas = config.personas
    own = None if personas.seeds is None else read_seeds(personas.seeds)
    english = language_of(config.language).code == "en"
    starting: Starting = {}
    for kind in KINDS:
        seeds = own[kind] if own is not None else built_in_seeds(kind) if english else []
        given = [entry.text for entry in read_pool_files(growth_of(kind, personas).files)]
        if not seeds and not given:
            raise UserError(
                f"personas.seeds: the built-in ones are English, expected a file with some in "
                f"{language_of(config.language).name}, or personas.{_SECTION[kind]}.files"
            )
        starting[kind] = [_given(texts) for texts in (seeds, given)]
    return starting


def _given(texts: list[str]) -> Outcome:
    return Outcome(
        candidates=[Candidate(text=text, verdict="") for text in texts],
        error_kind=None,
        error_message=None,
        calls=[],
    )


def _say_what_is_english(config: Config) -> None:
    """What of this package does not work in the language of the run."""
    language, lexicon = language_of(config.language), Lexicon(prompts_of(config))
    if language.code == "en":
        return
    if config.personas.seeds is None:
        say(f"{STAGE}: the built-in seeds are English, only the files given join the pools")
    if config.personas.encoder == EMBEDDED:
        say(f"{STAGE}: {EMBEDDED} knows English, to it all else is alike; see personas.encoder")
    for kind in KINDS:
        if not lexicon.knows(kind):
            say(
                f"{STAGE}: no words in {language.name} that must not stand in a {kind}, none is "
                f"looked for; {IN_PROMPTS[kind]} in personas.prompts may name some"
            )


def with_given_ids(members: list[dict[str, Any]], config: PersonasConfig) -> list[dict[str, Any]]:
    """Rows of `aloe.schema.POOL` with the ids that the pools' files give their texts.

    Raises:
        UserError: two texts of a pool have the same id.
    """
    ids = {kind: ids_of(read_pool_files(growth_of(kind, config).files)) for kind in KINDS}
    return [
        row | {"entry_id": ids[row["pool"]].get(row["text"], row["entry_id"])} for row in members
    ]


def _take_given(config: Config, store: Store) -> Manifest:
    started = time.monotonic()
    given = look_at_given(config)
    shape = config.personas.model_dump(mode="json", include={"heldout_personas", "max_personas"})
    settings = {
        "seed": config.run.seed,
        "personas": shape
        | {
            key: getattr(config.personas, key).model_dump(mode="json")
            for key in ("verifiable", "twins")
        },
        "validation_share": config.preferences.validation_share,
        "given": given.digest,
    }
    manifest = stage_manifest(store, STAGE, settings, resume=config.run.resume)
    if not manifest.complete:
        write_given(config, store, given)
        manifest = manifest.finish(store, started, counts=given.counts())
    return manifest


def _settings(config: Config, starting: Starting) -> dict[str, Any]:
    prompts = prompts_of(config)
    return {
        "seed": config.run.seed,
        "personas": config.personas.model_dump(mode="json", exclude=_INDIFFERENT),
        "validation_share": config.preferences.validation_share,
        "writer": speaker_settings(config.models[config.personas.writers[0]]),
        "prompts": prompts.version("personas"),
        **prompts.settings(),
        "starting_texts": stable_id(starting),
        "given_ids": stable_id(
            [ids_of(read_pool_files(growth_of(kind, config.personas).files)) for kind in KINDS]
        ),
    }


def _pools(
    config: Config, store: Store, names: Mapping[Kind, list[str]]
) -> dict[Kind, GrowingPool]:
    return {
        kind: pool_of(kind, config.personas, config.run.seed, read_rounds(store, names[kind]))
        for kind in KINDS
    }


def _grow(
    config: Config,
    store: Store,
    names: Mapping[Kind, list[str]],
    pools: Mapping[Kind, GrowingPool],
    starting: Starting,
    account: Account,
) -> str:
    """Run rounds until both pools have stopped; the keeper writes each as it is decided.

    Returns what the world has refused, if that has ended it.
    """
    import ray

    fault = ""
    settings, actors = config.personas, config.personas.actors
    models = speakers_of(config, settings.writers)
    connect(config.ray, imports_of(models.values()))
    pooled = pooled_models(models, actors)
    gpus = reserve(config.ray, "personas.actors", actors, models, pooled, _KEEPER_CPUS)
    in_flight = most_open(actors, models.values())
    begin = {kind: starting[kind] for kind in KINDS if not pools[kind].texts}
    keeper: Any = (
        ray.remote(PoolKeeper)
        # Rows that wait for a round must leave room for those that bring it.
        .options(num_cpus=_KEEPER_CPUS, max_concurrency=2 * actors.max * in_flight + 8)
        .remote(settings, config.run.seed, store, names, begin)
    )
    total = sum(growth_of(kind, settings).size for kind in KINDS)
    there = sum(len(pool.texts) for pool in pools.values())
    with (
        meter("persona pools", total, there, spending=account) as advance,
        ExitStack() as stack,
    ):
        start = keeper.start.remote()
        given = sum(len(outcome["candidates"]) for kind in begin for outcome in begin[kind])
        engines: Pools = {}
        if there + given < total:  # beside the encoder, which looks at what is given
            engines = stack.enter_context(open_pools(pooled, config.storage, False, alone=True))
        advance(ray.get(start))
        if not ray.get(keeper.stopped.remote()):  # else what they start with was enough
            left = sum(settings.max_rounds - max(pool.round, 0) for pool in pools.values())
            tickets = [{"ticket": number} for number in range(left * settings.requests_per_round)]
            if not engines:
                engines = stack.enter_context(open_pools(pooled, config.storage, alone=True))
            await_pools(engines)
            link = stack.enter_context(board(advance, account))
            arguments = {"config": config, "keeper": keeper, "pools": engines, "board": link}
            shown = False
            for row in run_rows(tickets, PersonaWriter, arguments, actors, gpus, in_flight):
                advance(int(row["accepted"]), int(row["completion_tokens"]))
                fault = fault or str(row["fault"])
                if row["accepted"] and not shown:
                    say(ray.get(keeper.newest.remote()))
                    shown = True
    ray.kill(keeper)
    return fault


def _write_errors(store: Store, record: Record) -> int:
    """Write the errors table; returns how many requests failed."""
    if record.failed:
        errors = [
            {
                "stage": STAGE,
                "item_id": f"{row['pool']}-{row['round']}-{row['request']}",
                "role": "writer",
                "kind": row["error_kind"],
                "message": row["error_message"],
                "calls": row["calls"],
            }
            for row in record.failed
        ]
        store.write_table(f"{STAGE}/errors/requests.parquet", errors, ERRORS)
    return len(record.failed)


def _pair(config: Config, entries: list[dict[str, Any]]) -> list[Persona]:
    members = {
        kind: [Member(row["entry_id"], row["text"]) for row in entries if row["pool"] == kind]
        for kind in KINDS
    }
    return pair_pools(
        members["profile"],
        members["personality"],
        config.personas,
        config.preferences.validation_share,
        config.run.seed,
    )


def _write_pools(store: Store, entries: list[dict[str, Any]], personas: list[Persona]) -> None:
    tested = [persona for persona in personas if persona.split == "benchmark"]
    for kind in KINDS:
        heldout = {getattr(persona, kind).entry_id for persona in tested}
        rows = [
            row | {"heldout": row["entry_id"] in heldout} for row in entries if row["pool"] == kind
        ]
        store.write_table(f"{STAGE}/{Path(FILES[kind]).stem}.parquet", rows, POOL)


def _counts(record: Record, personas: list[Persona]) -> dict[str, int]:
    rejected = record.verdicts.copy()
    del rejected["accepted"]
    members = Counter(entry["pool"] for entry in record.members)
    grown = Counter(entry["pool"] for entry in record.members if entry["source"] == "model")
    splits = Counter(persona.split for persona in personas)
    return {
        "profiles": members["profile"],
        "personalities": members["personality"],
        "grown_profiles": grown["profile"],
        "grown_personalities": grown["personality"],
        "candidates": record.verdicts.total(),
        **{f"rejected_{verdict}": count for verdict, count in sorted(rejected.items())},
        "personas": len(personas),
        **{f"{split}_personas": count for split, count in sorted(splits.items())},
        "requests_failed": len(record.failed),
    }
