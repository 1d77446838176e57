"""The map of persona embeddings and the bars of tokens and time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from aloe.report.figure import BASE_COLOR, COLORS, Figure, Json, bar, plain, scatter
from aloe.report.pools import Entry, Pool
from aloe.report.summary import TITLES
from aloe.storage.manifest import Manifest


def persona_maps(pools: Sequence[Pool]) -> list[Figure]:
    """Each pool on its two principal axes: seeds, grown entries, and rings around held-out ones."""
    return [_persona_map(pool) for pool in pools if pool.entries]


def _persona_map(pool: Pool) -> Figure:
    seeds = [entry for entry in pool.entries if entry.source != "model"]
    grown = [entry for entry in pool.entries if entry.source == "model"]
    heldout = [entry for entry in pool.entries if entry.heldout]
    ring = {"symbol": "circle-open", "size": 15, "color": "--ink", "line": {"width": 1.5}}
    traces = [
        _places("seed", seeds, {"symbol": "diamond", "size": 8, "color": BASE_COLOR}),
        _places("grown", grown, {"symbol": "circle", "size": 8, "color": COLORS[0]}),
        _places("held out", heldout, ring) | {"hoverinfo": "skip"},
    ]
    axis = {"showticklabels": False, "zeroline": False, "showgrid": False}
    axis |= {"showline": True, "mirror": True}
    layout = {
        "hovermode": "closest",
        "xaxis": axis | {"title": {"text": "first principal axis"}},
        "yaxis": axis | {"title": {"text": "second"}, "scaleanchor": "x"},
    }
    plural = {"profile": "Profiles", "personality": "Personalities"}[pool.name]
    alt = (
        f"Map of {len(pool.entries)} {plural.lower()}: {len(seeds)} seeds, {len(grown)} grown, "
        f"{len(heldout)} of them held out; every text is in the list below."
    )
    title = f"{plural}: {pool.total}"
    return Figure(f"map-{pool.name}", "personas", title, alt, traces, layout)


def _places(name: str, entries: Sequence[Entry], marker: Json) -> Json:
    said = [plain(entry.text, width=52) for entry in entries]
    return scatter(name, [e.x for e in entries], [e.y for e in entries], "markers") | {
        "marker": marker,
        "hoverinfo": "text",
        "hovertext": said,
    }


def budget_bars(manifests: Mapping[str, Manifest | None]) -> list[Figure]:
    """Tokens (stacked by kind) and wall minutes of every stage that has started."""
    started = [(TITLES[name], found) for name, found in manifests.items() if found is not None]
    if not started:
        return []
    names = [title for title, _ in started]
    usage = [found.usage for _, found in started]
    parts = {
        "prompt, from cache": [u.cached_tokens for u in usage],
        "prompt, computed": [u.prompt_tokens - u.cached_tokens for u in usage],
        "completion": [u.completion_tokens for u in usage],
    }
    colors = (BASE_COLOR, *COLORS)
    tokens = [
        bar(part, names, values, color) | {"hovertemplate": "%{y}: %{x:,} tokens"}
        for (part, values), color in zip(parts.items(), colors, strict=False)
    ]
    wall = [found.wall_seconds / 60 for _, found in started]
    minutes = bar("wall time", names, wall, COLORS[2])
    minutes |= {"showlegend": False, "hovertemplate": "%{y}: %{x:.2f} min"}
    layout = {"barmode": "stack", "yaxis": {"autorange": "reversed"}, "bargap": 0.35}
    said = "by stage; the numbers are in the table above."
    return [
        Figure("tokens", "budget", "Tokens", f"Tokens {said}", tokens, layout),
        Figure("wall", "budget", "Wall time, minutes", f"Wall minutes {said}", [minutes], layout),
    ]
