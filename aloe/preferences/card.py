"""The README.md of an exported data set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aloe.config import language_of
from aloe.roles.prompts import render
from aloe.schema import VERSION
from aloe.storage import Store, load_manifest
from aloe.storage.records import run_record


def dataset_card(store: Store, sizes: Mapping[str, Mapping[str, int]]) -> str:
    """Markdown with the YAML head that Hugging Face `datasets` reads.

    Args:
        sizes: rows by table (sft, pairs) and split.
    """
    dialogue = load_manifest(store, "dialogue")
    record = run_record(store)
    spoken = dialogue.settings.get("language", "en") if dialogue else "en"
    values: dict[str, Any] = {
        "sizes": sizes,
        "schema_version": VERSION,
        "trees": dialogue.counts.get("trees") if dialogue else None,
        "shape": dialogue.settings.get("dialogue", {}) if dialogue else {},
        "spoken": language_of(spoken).code,
        "agreement": dialogue.results.get("judge_agreement") if dialogue else None,
        "models": {
            r: m.get("path", m.get("model", m["backend"]))
            for r, m in dialogue.settings["roles"].items()
        }
        if dialogue
        else {},
        "commit": record.get("commit"),
        "seed": record.get("seed"),
    }
    return render("preferences/card.md.jinja", **values) + "\n"


def published_card(conversations: Mapping[str, int], left_out: int) -> str:
    """Markdown that says what the published format holds of a run.

    Args:
        conversations: lines by split.
        left_out: turns on branches beside the spines, which the format has no place for.
    """
    values = {"conversations": conversations, "left_out": left_out}
    return render("preferences/published.md.jinja", **values) + "\n"
