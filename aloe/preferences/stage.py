"""Build SFT rows, DPO pairs and RL prompts from the finished trees."""

from __future__ import annotations

import time
from collections import Counter

from aloe.config import Config, PreferencesConfig
from aloe.errors import StageFailed
from aloe.preferences.rows import (
    Node,
    TreeRows,
    TurnView,
    pair_row,
    prompt_row,
    read_trees,
    sft_row,
    walk,
)
from aloe.preferences.selected import rows_of_selected
from aloe.progress import say
from aloe.roles import Prompts, prompts_of
from aloe.schema import PAIRS, PERSONAS, PROMPTS, SFT
from aloe.storage import Manifest, Store, stage_manifest
from aloe.storage.tables import new_table
from aloe.verifiable import share_met

STAGE = "preferences"


def build_preferences(config: Config, store: Store) -> Manifest:
    """Write ``sft.parquet``, ``pairs.parquet`` and ``prompts.parquet``, in order of the trees.

    Every node with sibling replies gives its pairs and its preferred replies, on the spine and off
    it. Identical replies make no pair, a tie makes neither pair nor row. Of selected replies
    (``dialogue.select``) see `aloe.preferences.selected`. SFT learns the preferred
    reply of every comparison, or with ``sft_rows: pairs`` of those that make a pair; with
    ``sft_min_met`` only those of them that meet enough of what a program can check. The split of a
    row is its persona's.

    Raises:
        StageFailed: no pair or no SFT row is left to train on or to validate with.
    """
    prompts = prompts_of(config)
    settings = {
        "preferences": config.preferences.model_dump(mode="json"),
        "prompts": prompts.version("dialogue"),
        **prompts.settings(),
    }
    manifest = stage_manifest(store, STAGE, settings, after=["dialogue"], resume=config.run.resume)
    if manifest.complete:
        return manifest
    started = time.monotonic()
    counts = _write(config, store, prompts)
    say(f"preferences: {counts}")
    return manifest.finish(store, started, counts=counts)


def _write(config: Config, store: Store, prompts: Prompts) -> dict[str, int]:
    """Counts of what was written, one part of the trees after the other."""
    # Zeros stand in the manifest too.
    counts = Counter(turns=0, comparisons=0, ties=0, sft_rows=0, pairs=0, pairs_guided_preferred=0)
    splits = Counter(train=0, validation=0)
    sft_splits = Counter(train=0, validation=0)
    people = _people(store) if config.preferences.twins else {}
    with (
        new_table(store, f"{STAGE}/sft.parquet", SFT) as add_sft,
        new_table(store, f"{STAGE}/pairs.parquet", PAIRS) as add_pairs,
        new_table(store, f"{STAGE}/prompts.parquet", PROMPTS) as add_prompts,
    ):
        for tree in read_trees(store):
            if config.dialogue.select is None:
                rows = _rows_of_judged(tree, config.preferences, prompts)
            else:
                twins = config.personas.twins
                rows = rows_of_selected(tree, config.preferences, twins, people, prompts)
            add_sft(rows.sft)
            add_pairs(rows.pairs)
            add_prompts([rows.prompt])
            counts["turns"] += rows.turns
            counts["comparisons"] += rows.comparisons
            counts["ties"] += rows.ties
            counts["sft_rows"] += len(rows.sft)
            counts["pairs"] += len(rows.pairs)
            counts["pairs_guided_preferred"] += sum(
                pair["preferred_role"] == "guided" for pair in rows.pairs
            )
            splits.update(pair["split"] for pair in rows.pairs)
            sft_splits.update(row["split"] for row in rows.sft)
        trained = (config.training.dpo, config.training.reward)
        needs_pairs = any(options is not None for options in trained)
        for split in ("train", "validation"):
            if needs_pairs and not splits[split]:
                raise StageFailed(
                    f"no {split} pair among {counts['turns']} turns; see preferences.min_margin, "
                    "drop_disagreements and validation_share"
                )
            if not sft_splits[split]:
                raise StageFailed(
                    f"no {split} row for SFT among {counts['comparisons']} preferred replies; see "
                    "preferences.sft_min_met"
                )
    return {
        **counts,
        "pairs_train": splits["train"],
        "pairs_validation": splits["validation"],
        # In the twin's conversation the pair of a turn is another.
        "comparisons_without_pair": counts["comparisons"]
        - counts["pairs"] // (1 + config.preferences.twins),
    }


def _rows_of_judged(tree: list[Node], config: PreferencesConfig, prompts: Prompts) -> TreeRows:
    every = list(walk(tree))
    turns = [turn for turn in every if not turn.tie]
    kept = [turn for turn in turns if _is_pair(turn, config)]
    compared = kept if config.sft_rows == "pairs" else turns
    return TreeRows(
        [sft_row(turn, prompts) for turn in compared if _is_exemplary(turn, config)],
        [pair_row(turn, prompts) for turn in kept],
        prompt_row(every[0], prompts),
        turns=len({turn.user["node_id"] for turn in every}),
        comparisons=len(every),
        ties=len(every) - len(turns),
    )


def _people(store: Store) -> dict[tuple[str, tuple[str, ...]], str]:
    """Persona id by twin id and kinds."""
    columns = ["persona_id", "twin_id", "preferences"]
    rows = store.read_table("personas/personas.parquet", PERSONAS, columns).to_pylist()
    return {(row["twin_id"], tuple(row["preferences"])): row["persona_id"] for row in rows}


def _is_pair(turn: TurnView, config: PreferencesConfig) -> bool:
    if turn.preferred["text"] == turn.rejected["text"]:
        return False
    if config.drop_disagreements and not turn.preferred["judge_agrees"]:
        return False
    margin = turn.preferred["judge_probability"] - turn.rejected["judge_probability"]
    return margin >= config.min_margin


def _is_exemplary(turn: TurnView, config: PreferencesConfig) -> bool:
    if not config.sft_min_met:
        return True
    preferences, profile = turn.user["preferences"] or (), turn.user["profile"]
    return share_met(preferences, turn.preferred["text"], profile) >= config.sft_min_met
