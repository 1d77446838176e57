"""Judge conversations that are given: how well each of their replies suits its user, by turn.

judged/NAME/conversations.parquet   what is judged (GIVEN)
judged/NAME/scores/, errors/        part by part, in the order of the rows
judged/NAME/open/                   what is judged of a part that was stopped
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa

from aloe.config import Config, VerifiableModel, speaker_settings, speakers_of
from aloe.engines import check_models
from aloe.engines.account import Account
from aloe.engines.actors import most_open, reserve, run_rows
from aloe.engines.board import board
from aloe.engines.pool import open_pools, pooled_models
from aloe.engines.start import imports_of
from aloe.errors import StageFailed, StageStopped, UserError
from aloe.evaluation.judging import JudgeWorker
from aloe.evaluation.metrics import FloatArray
from aloe.evaluation.results import SCALE, policy_numbers
from aloe.evaluation.table import given_table
from aloe.given import Conversation, read_conversations
from aloe.progress import console, meter, say
from aloe.roles import prompts_of
from aloe.runtime import check_address, connect
from aloe.schema import ERRORS, GIVEN, PERSONAS, SCORES, derive_seed, stable_id
from aloe.storage import Manifest, Store, Usage, stage_manifest
from aloe.storage.tables import new_table

_PART = 32
"""Conversations that are written together."""
_PERSONAS = "personas/personas.parquet"

Row = dict[str, Any]


def judge_conversations(
    config: Config, store: Store, path: str, turns: int | None = None
) -> Manifest:
    """Score each reply of a file's conversations with ``roles.judge``, and tell AL(k) and its rise.

    Args:
        path: see `aloe.given.read_conversations`. Each row tells its user (``persona``, or
            ``profile`` and ``personality``) or names a persona of the run (``persona_id``).
        turns: replies of a conversation that count for the numbers, of those that have as many;
            None: as many as at least half of the conversations have. All replies are scored.

    Raises:
        UserError: a row is no conversation or has no persona, or nothing is left to count; before
            a model is loaded.
        StageFailed: more than ``run.max_error_rate`` of the conversations failed.
        StageStopped: a limit is reached, or nobody can be asked; parts that are done are kept.
    """
    stage = f"judged/{_name(path)}"
    rows = list(_rows(config, store, path))
    lengths = [len(row["messages"]) // 2 for row in rows]
    counted = turns or int(np.quantile(lengths, 0.5, method="lower"))
    if max(lengths) < counted:
        raise UserError(
            f"--turns {counted}: the longest conversation has {max(lengths)} replies, expected at "
            "most that"
        )
    manifest = stage_manifest(store, stage, _settings(config, rows, counted), resume="if-same")
    started = time.monotonic()
    if not manifest.complete:
        with manifest.paused(store, started):
            manifest = _judge(config, store, stage, rows, counted, manifest, started)
    console.print(given_table(manifest.results))
    say(f"{store.url(stage, 'scores')}", stage=stage, results=manifest.results)
    return manifest


def _judge(
    config: Config,
    store: Store,
    stage: str,
    rows: list[Row],
    counted: int,
    manifest: Manifest,
    started: float,
) -> Manifest:
    check_models([config.models[config.roles.judge]], servers=False)
    check_address(config.ray)
    if not store.exists(stage, "conversations.parquet"):
        with new_table(store, f"{stage}/conversations.parquet", GIVEN, row_group=_PART) as add:
            add(rows)
    _score(config, store, stage, len(rows))
    store.remove(stage, "open")
    scores = store.read_table(f"{stage}/scores", SCORES)
    errors = store.read_table(f"{stage}/errors", ERRORS)
    if len(errors) > config.run.max_error_rate * len(rows):
        raise StageFailed(
            f"{len(errors)} of {len(rows)} conversations failed, see {store.url(stage, 'errors')}"
        )
    calls = [c for table in (scores, errors) for row in table["calls"].to_pylist() for c in row]
    cases = _cases(scores, counted)
    if not cases:
        raise StageFailed(f"{stage}: no conversation of {counted} replies is left to count")
    evaluation, seed = config.evaluation, derive_seed(config.run.seed, "bootstrap")
    numbers = policy_numbers(cases, evaluation.bootstrap_samples, evaluation.confidence, seed)
    lengths = Counter(scores["case_id"].to_pylist()).values()
    results = {
        "scale": list(SCALE),
        "turns": counted,
        "personas": len(cases),
        "conversations": sum(length >= counted for length in lengths),
        "shorter": sum(length < counted for length in lengths),
        **numbers,
    }
    counts = {"conversations": len(rows), "replies": len(scores), "failed": len(errors)}
    return manifest.finish(
        store, started, usage=Usage.of_calls(calls), counts=counts, results=results
    )


def _score(config: Config, store: Store, stage: str, count: int) -> None:
    done = store.finished(stage, "scores")
    parts = -(-count // _PART)
    todo = [
        {"part": part, "size": min(_PART, count - part * _PART)}
        for part in range(parts)
        if f"{part:08d}" not in done
    ]
    if not todo:
        return
    account = Account(config, store, "judged")
    models = speakers_of(config, [config.roles.judge])
    actors = config.evaluation.actors
    connect(config.ray, imports_of(models.values()))
    pooled = pooled_models(models, actors)
    gpus = reserve(config.ray, "evaluation.actors", actors, models, pooled)
    left = sum(row["size"] for row in todo)
    fault = ""
    with (
        open_pools(pooled, config.storage, alone=True) as pools,
        meter("conversations judged", count, count - left, spending=account) as advance,
        board(advance, account) as link,
    ):
        arguments = {
            "config": config,
            "store": store,
            "folder": stage,
            "part_size": _PART,
            "pools": pools,
            "board": link,
        }
        in_flight = -(-most_open(actors, models.values()) // _PART) + 1
        for row in run_rows(todo, JudgeWorker, arguments, actors, gpus, in_flight):
            advance(int(row["judged"]))
            fault = fault or str(row["fault"])
    if len(store.finished(stage, "scores")) < parts:
        raise StageStopped(f"{stage}: {fault}") if fault else account.stopped()


def _cases(scores: pa.Table, turns: int) -> dict[str, FloatArray]:
    """Scores of the first turns by persona, float64 (turns,): several conversations of one persona
    hang together, so that each persona is one case, as in the benchmark."""
    by_case: dict[tuple[str, str], list[float]] = {}
    for row in scores.select(["persona_id", "case_id", "turn", "score"]).to_pylist():
        by_case.setdefault((row["persona_id"], row["case_id"]), []).append(row["score"])
    by_persona: dict[str, list[list[float]]] = {}
    for (persona, _), values in by_case.items():
        if len(values) >= turns:
            by_persona.setdefault(persona, []).append(values[:turns])
    return {persona: np.mean(found, axis=0) for persona, found in by_persona.items()}


def _rows(config: Config, store: Store, path: str) -> Iterator[Row]:
    """Rows of `aloe.schema.GIVEN`, each with its persona."""
    conversations = list(read_conversations([path]))
    known = _personas(store, {c.persona_id for c in conversations if not c.profile})
    exact = isinstance(config.models[config.roles.judge], VerifiableModel)
    for number, conversation in enumerate(conversations):
        persona = _persona(conversation, known)
        if not conversation.replies:
            raise UserError(f"{conversation.place}: no reply to judge, expected at least one")
        if exact and not persona["preferences"]:
            raise UserError(
                f"{conversation.place}: its persona has no checkable preferences, which is what "
                "roles.judge looks at; expected a persona_id of this run"
            )
        yield {
            "case_id": stable_id(number, conversation.conversation_id, persona["persona_id"]),
            "conversation_id": conversation.conversation_id,
            **persona,
            "messages": list(conversation.messages),
        }


def _personas(store: Store, wanted: set[str | None]) -> dict[str, Row]:
    """Personas of the run by id."""
    if not wanted - {None} or not store.exists(_PERSONAS):
        return {}
    columns = ["persona_id", "profile", "personality", "preferences"]
    table = store.read_table(_PERSONAS, PERSONAS, columns)
    ids: Iterable[str] = table["persona_id"].to_pylist()
    places = [place for place, name in enumerate(ids) if name in wanted]
    found = table.take(pa.array(places, pa.int64())).to_pylist()
    return {row["persona_id"]: row for row in found}


def _persona(conversation: Conversation, known: Mapping[str, Row]) -> Row:
    name = conversation.persona_id
    if conversation.profile:
        told = {"profile": conversation.profile, "personality": conversation.personality}
        return {"persona_id": name or stable_id(*told.values()), **told, "preferences": []}
    if name is None:
        raise UserError(
            f"{conversation.place}: no persona, expected persona, profile or persona_id"
        )
    if name not in known:
        raise UserError(
            f"{conversation.place}: persona_id {name} is none of this run's, expected one of "
            f"{_PERSONAS}, or the persona itself"
        )
    return {key: known[name][key] for key in ("persona_id", "profile", "personality")} | {
        "preferences": known[name]["preferences"] or []
    }


def _settings(config: Config, rows: list[Row], counted: int) -> Row:
    evaluation = config.evaluation.model_dump(
        mode="json", include={"tries", "bootstrap_samples", "confidence"}
    )
    prompts = prompts_of(config)
    return {
        "seed": config.run.seed,
        "evaluation": evaluation,
        "turns": counted,
        "conversations": stable_id(rows),
        "judge": speaker_settings(config.models[config.roles.judge]),
        "prompts": prompts.version("evaluation"),
        **prompts.settings(),
        **{f"asked_{key}": value for key, value in config.judge.settings().items()},
    }


def _name(path: str) -> str:
    """Name of a file or folder, as a folder of the run."""
    stem = PurePosixPath(path.rstrip("/")).name.partition(".")[0]
    return re.sub(r"[^A-Za-z0-9_-]+", "_", stem) or "conversations"
