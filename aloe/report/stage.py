"""The report stage: read what the other stages left, lay it out, write one page."""

from __future__ import annotations

import time

from aloe.config import Config, language_of
from aloe.report import charts, curves, page, summary, trees
from aloe.report.drawing import draw_alignment
from aloe.report.episodes import read_looks
from aloe.report.pools import read_pools
from aloe.report.twins import choose_twins, replies_are_selected
from aloe.storage.manifest import Manifest, load_manifest, stage_manifest
from aloe.storage.records import run_record
from aloe.storage.store import Store

NAME = "report"
STAGES = (
    "personas",
    "dialogue",
    "preferences",
    "training/sft",
    "training/rounds",
    "training/reward",
    "training/dpo",
    "training/ppo",
    "evaluation",
)


def write_report(config: Config, store: Store) -> Manifest:
    """Write ``report/index.html`` about whatever the run folder holds (issue 3).

    Beside it lies ``alignment.svg``, the benchmark's curves for elsewhere.

    While a stage is not complete, the page is a preview: it is written again at every call and
    leaves no manifest behind. Sections whose stage has not started are absent.

    Raises:
        UserError: the run folder holds a report made with other settings, or a table of another
            schema version.
    """
    started = time.monotonic()
    manifests = {name: load_manifest(store, name) for name in STAGES}
    for kind in ("rounds", "reward", "dpo", "ppo"):
        name = f"training/{kind}"
        if getattr(config.training, kind) is None and manifests[name] is None:
            del manifests[name]
    settings = config.report.model_dump(mode="json") | {"seed": config.run.seed}
    preview = any(found is None or not found.complete for found in manifests.values())
    if preview:
        manifest = Manifest(NAME, settings, fingerprint="")
    else:
        manifest = stage_manifest(store, NAME, settings, after=["evaluation"])
        if manifest.complete:
            return manifest

    scores = summary.evaluation_scores(manifests["evaluation"])
    metrics = summary.read_metrics(store)
    pools = read_pools(store, config.run.seed)
    most, seed = config.report.trees, config.run.seed
    selected = replies_are_selected(store)
    pairs = choose_twins(store, most, seed) if selected else []
    shown, available = ([], 0) if selected else trees.choose_trees(store, most, seed)
    figures = [
        *curves.alignment_curves(scores),
        *curves.knowledge_curves(scores),
        *curves.rollout_curves(manifests.get("training/rounds")),
        *curves.training_curves(metrics),
        *charts.persona_maps(pools),
        *charts.budget_bars(manifests),
    ]
    html = page.render(
        figures,
        title=config.report.title,
        tag=language_of(config.language).tag,
        run=store.root.rstrip("/").rsplit("/", 1)[-1],
        made=run_record(store),
        stages=summary.stage_rows(manifests),
        total=summary.total_cost(manifests),
        scores=scores,
        dialogue=manifests["dialogue"],
        confidence=config.evaluation.confidence,
        training=summary.training_results(manifests),
        pools=pools,
        looks=read_looks(store),
        errors=summary.error_rows(store),
        trees=shown,
        twin_pairs=pairs,
        trees_available=available,
        trees_asked=config.report.trees,
    )
    store.write_text("report/index.html", html)
    if scores is not None:
        store.write_text("report/alignment.svg", draw_alignment(scores, config.report.title))
    return (
        manifest
        if preview
        else manifest.finish(store, started, counts={"trees": len(shown) + len(pairs)})
    )
