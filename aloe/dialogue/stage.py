"""Roll out one tree per persona on Ray Data actors; each tree is written when it is finished."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

from aloe.config import Config, speaker_settings, speakers_of
from aloe.dialogue.tree import TreeFailed, TreeSeed, grow_tree
from aloe.engines import Speakers, gpus_for
from aloe.engines.pool import run_rows
from aloe.errors import StageFailed
from aloe.progress import meter
from aloe.roles import Persona
from aloe.roles.prompts import prompts_version
from aloe.runtime import connect, require_resources
from aloe.schema import ERRORS, NODES, PERSONAS, stable_id
from aloe.storage import Manifest, Store, Usage, stage_manifest

STAGE = "dialogue"


def rollout_dialogues(config: Config, store: Store) -> Manifest:
    """Grow a tree for every persona that is not kept for the benchmark.

    Writes ``dialogue/nodes/<tree_id>.parquet`` or ``dialogue/errors/<tree_id>.parquet`` for each.
    What is there is not done again, so a killed rollout loses only the trees that were open.

    Raises:
        StageFailed: more than ``run.max_error_rate`` of the trees failed.
    """
    manifest = stage_manifest(store, STAGE, _settings(config), after=["personas"])
    if manifest.complete:
        return manifest
    started = time.monotonic()
    trees = _tree_rows(config, store, manifest.fingerprint)
    done = store.finished(STAGE, "nodes") | store.finished(STAGE, "errors")
    todo = [row for row in trees if row["tree_id"] not in done]
    if todo:
        _roll_out(config, store, todo, len(trees), manifest.fingerprint)
    failed = len(store.finished(STAGE, "errors"))
    if failed > config.run.max_error_rate * len(trees):
        manifest.pause(store, started)
        raise StageFailed(
            f"{failed} of {len(trees)} trees failed, see {store.url(STAGE, 'errors')}"
        )
    nodes = store.read_table(f"{STAGE}/nodes", NODES, ["role", "judge_agrees", "calls"]).to_pylist()
    errors = store.read_table(f"{STAGE}/errors", ERRORS, ["calls"]).to_pylist()
    pairs = [row["judge_agrees"] for row in nodes if row["role"] == "guided"]
    return manifest.finish(
        store,
        started,
        usage=Usage.of_calls(call for row in nodes + errors for call in row["calls"]),
        counts={"trees": len(trees) - failed, "nodes": len(nodes), "failed_trees": failed},
        results={"judge_agreement": sum(pairs) / len(pairs) if pairs else None},
    )


def _settings(config: Config) -> dict[str, Any]:
    roles = config.roles.model_dump()
    return {
        "seed": config.run.seed,
        "dialogue": config.dialogue.model_dump(mode="json", exclude={"actors"}),
        "roles": {role: speaker_settings(config.models[name]) for role, name in roles.items()},
        "prompts": prompts_version("dialogue/prompts"),
    }


def _tree_rows(config: Config, store: Store, fingerprint: str) -> list[dict[str, Any]]:
    personas = store.read_table("personas/personas.parquet", PERSONAS).to_pylist()
    return [
        {
            "tree_id": stable_id(persona["persona_id"], config.run.seed, fingerprint),
            **{key: persona[key] for key in ("persona_id", "profile", "personality", "split")},
        }
        for persona in personas
        if persona["split"] != "benchmark"
    ]


def _roll_out(
    config: Config, store: Store, todo: list[dict[str, Any]], total: int, fingerprint: str
) -> None:
    models = speakers_of(config, list(config.roles.model_dump().values()))
    arguments = {"config": config, "store": store, "fingerprint": fingerprint}
    pool = config.dialogue.actors
    gpus = gpus_for(pool, models.values())
    connect(config.ray)
    require_resources(config.ray, "dialogue.actors", gpus * pool.min, pool.num_cpus * pool.min)
    with meter("dialogue trees", total, total - len(todo)) as advance:
        for row in run_rows(todo, RolloutWorker, arguments, pool, gpus):
            advance(1, int(row["completion_tokens"]))


class RolloutWorker:
    """Ray Data actor: holds the engines of all roles and many open trees, each a coroutine."""

    def __init__(self, config: Config, store: Store, fingerprint: str) -> None:
        self._config, self._store, self._fingerprint = config, store, fingerprint
        self._roles: dict[str, str] = config.roles.model_dump()
        self._speakers = Speakers(speakers_of(config, list(self._roles.values())))

    async def __call__(self, batch: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        row = {key: str(values[0]) for key, values in batch.items()}
        start = TreeSeed(
            row["tree_id"],
            Persona(row["persona_id"], row["profile"], row["personality"]),
            row["split"],
            self._config.run.seed,
            self._fingerprint,
        )
        engines = {role: await self._speakers.get(name) for role, name in self._roles.items()}
        try:
            rows = await grow_tree(start, engines, self._config.dialogue)
            self._store.write_table(f"{STAGE}/nodes/{start.tree_id}.parquet", rows, NODES)
        except TreeFailed as error:
            rows = [error.row]
            self._store.write_table(f"{STAGE}/errors/{start.tree_id}.parquet", rows, ERRORS)
        tokens = sum(call["completion_tokens"] for node in rows for call in node["calls"])
        yield {"tree_id": [start.tree_id], "completion_tokens": [tokens]}

    def __del__(self) -> None:
        # Ray Data lets go of the worker before its process ends: engines stop without a traceback.
        self._speakers.close()
