"""A run folder whose preferences are complete and planted, for tests of training."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from typing import Any

from aloe.config import Config
from aloe.roles import policy_messages
from aloe.schema import METRICS, PAIRS, PROMPTS, SFT
from aloe.storage import Store, run_store, stage_manifest

TOPICS = ["the garden", "a night shift", "a new bike", "the choir", "old maps", "bread baking"]
TRAIN, VALIDATION = 18, 6
"""Pairs of each split: trees of three turns."""


def planted_rows() -> Iterator[dict[str, Any]]:
    """Warm replies are always preferred, lists always rejected; trees of three turns."""
    draw = random.Random(0)
    for tree in range((TRAIN + VALIDATION) // 3):
        prompt = [{"role": "system", "content": "You chat with a friend."}]
        for turn in (1, 2, 3):
            topic = draw.choice(TOPICS)
            text = f"Today it was {topic} again, day {tree}."
            prompt = [*prompt, {"role": "user", "content": text}]
            preferred = f"Oh, {topic}! I love that you keep at it. What happened next?"
            yield {
                "tree_id": f"t{tree}",
                "persona_id": f"p{tree}",
                "split": "train" if tree < TRAIN // 3 else "validation",
                "turn": turn,
                "prompt": prompt,
                "preferred": preferred,
                "rejected": f"There are several facts about {topic}. First: it exists.",
            }
            prompt = [*prompt, {"role": "assistant", "content": preferred}]


def prompt_rows() -> list[dict[str, Any]]:
    """Where an episode begins, one of each tree; all want to be asked and dislike noise."""
    return [
        {
            "prompt_id": f"s{row['tree_id']}",
            "persona_id": row["persona_id"],
            "split": row["split"],
            "profile": f"Life of {row['persona_id']}.",
            "personality": "Curious.",
            "preferences": ["asks", "calm"],
            "twin_id": None,
            "prompt": policy_messages(row["prompt"][1:]),
        }
        for row in planted_rows()
        if row["turn"] == 1
    ]


def planted_config(folder: str, **changes: Any) -> Config:
    """Training of a tiny model; ``changes`` are options of every kind of training,
    ``base``, or the sections reward, dpo, ppo, placements, storage and ray."""
    sections = {key: changes.pop(key, {}) for key in ("placements", "storage", "ray")}
    dpo = {"beta": 0.1, **changes.pop("dpo", {})}
    reward, base = changes.pop("reward", {}), changes.pop("base", "embedded://tiny")
    ppo = changes.pop("ppo", None)
    stage = {"batch_size": 6, "micro_batch_size": 3, "learning_rate": 1e-3, "warmup_ratio": 0}
    stage |= {"max_len": 256, **changes}
    return Config.model_validate(
        {
            "run": {"dir": folder, "seed": 5},
            "models": {"script": {"backend": "scripted"}},
            "roles": dict.fromkeys(("user", "inducer", "guided", "unguided", "judge"), "script"),
            "personas": {
                "writer": "script",
                "profiles": {"size": 20},
                "personalities": {"size": 20},
                "verifiable": {"count": 2},
            },
            "training": {
                "base": base,
                "sft": stage,
                "reward": {**stage, **reward},
                "dpo": {**stage, **dpo},
                "ppo": ppo,
            },
            **sections,
        }
    )


def planted_run(folder: object, **changes: Any) -> tuple[Config, Store]:
    """A configuration and its run folder, with the rows of `planted_rows`."""
    config = planted_config(str(folder), **changes)
    store = run_store(config)
    rows = [{**row, "id": f"{row['tree_id']}-{row['turn']}"} for row in planted_rows()]
    sft = [{**row, "row_id": row["id"], "response": row["preferred"]} for row in rows]
    sft = [{**row, "reasoning": None, "ended": True} for row in sft]
    judged = {"preferred_role": "guided", "probability": 0.9, "judge_agrees": True}
    judged |= {"preferred_reasoning": None, "rejected_reasoning": None}
    judged |= {"preferred_ended": True, "rejected_ended": True}
    pairs = [{**row, **judged, "pair_id": row["id"]} for row in rows]
    tables = (("sft", sft, SFT), ("pairs", pairs, PAIRS), ("prompts", prompt_rows(), PROMPTS))
    for name, table, schema in tables:
        kept = [{key: row[key] for key in schema.names} for row in table]
        store.write_table(f"preferences/{name}.parquet", kept, schema)
    stage_manifest(store, "preferences", {}).finish(store, time.monotonic())
    return config, store


def curve(store: Store, kind: str, name: str = "loss") -> dict[int, float]:
    """A number of each optimizer step's batch."""
    rows = store.read_table(f"training/{kind}/metrics.parquet", METRICS).to_pylist()
    return {
        row["step"]: row["value"] for row in rows if (row["split"], row["name"]) == ("train", name)
    }
