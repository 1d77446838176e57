"""Build SFT rows, DPO pairs and RL prompts from the finished trees."""

from __future__ import annotations

import time
from typing import Any

from aloe.config import Config, PreferencesConfig
from aloe.errors import StageFailed
from aloe.preferences.rows import TurnView, pair_row, prompt_row, sft_row, split_trees, walk
from aloe.progress import say
from aloe.roles.prompts import prompts_version
from aloe.schema import NODES, PAIRS, PROMPTS, SFT
from aloe.storage import Manifest, Store, stage_manifest

STAGE = "preferences"


def build_preferences(config: Config, store: Store) -> Manifest:
    """Write ``sft.parquet``, ``pairs.parquet`` and ``prompts.parquet``.

    Identical replies make no pair. The split of a row is its persona's.

    Raises:
        StageFailed: no pair is left to train on or to validate with.
    """
    settings = {
        "preferences": config.preferences.model_dump(mode="json"),
        "prompts": prompts_version("dialogue/prompts"),
    }
    manifest = stage_manifest(store, STAGE, settings, after=["dialogue"])
    if manifest.complete:
        return manifest
    started = time.monotonic()
    trees = [list(walk(tree)) for tree in split_trees(_nodes(store))]
    turns = [turn for tree in trees for turn in tree]
    kept = [turn for turn in turns if _is_pair(turn, config.preferences)]
    pairs = [pair_row(turn) for turn in kept]
    for split in ("train", "validation"):
        if not any(pair["split"] == split for pair in pairs):
            raise StageFailed(
                f"no {split} pair among {len(turns)} turns; see preferences.min_margin, "
                "drop_disagreements and validation_share"
            )
    store.write_table(f"{STAGE}/sft.parquet", [sft_row(turn) for turn in turns], SFT)
    store.write_table(f"{STAGE}/pairs.parquet", pairs, PAIRS)
    store.write_table(f"{STAGE}/prompts.parquet", [prompt_row(tree[0]) for tree in trees], PROMPTS)
    counts = _counts(turns, pairs)
    say(f"preferences: {counts}")
    return manifest.finish(store, started, counts=counts)


def _nodes(store: Store) -> list[dict[str, Any]]:
    columns = [name for name in NODES.names if name != "calls"]
    return store.read_table("dialogue/nodes", NODES, columns).to_pylist()


def _is_pair(turn: TurnView, config: PreferencesConfig) -> bool:
    if turn.preferred["text"] == turn.rejected["text"]:
        return False
    if config.drop_disagreements and not turn.preferred["judge_agrees"]:
        return False
    margin = turn.preferred["judge_probability"] - turn.rejected["judge_probability"]
    return margin >= config.min_margin


def _counts(turns: list[TurnView], pairs: list[dict[str, Any]]) -> dict[str, int]:
    return {
        "turns": len(turns),
        "pairs": len(pairs),
        "pairs_train": sum(pair["split"] == "train" for pair in pairs),
        "pairs_validation": sum(pair["split"] == "validation" for pair in pairs),
        "pairs_guided_preferred": sum(pair["preferred_role"] == "guided" for pair in pairs),
        "turns_without_pair": len(turns) - len(pairs),
    }
