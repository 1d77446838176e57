"""Curves: alignment by turn, and training by optimizer step."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from aloe.report.figure import BASE_COLOR, COLORS, Figure, Json, plain, scatter
from aloe.report.summary import TITLES
from aloe.storage.manifest import Manifest

_SYMBOLS = ("circle", "diamond", "square", "triangle-up", "x")
_METRICS = {
    "loss": "loss",
    "accuracy_logprob": "accuracy by log-prob",
    "accuracy_reward": "accuracy by implicit reward",
    "accuracy": "accuracy",
    "margin": "reward margin",
    "reward": "reward of a reply",
    "reward_verifiable": "verifiable reward",
    "reward_judge": "judge's reward",
    "reward_model": "reward model's reward",
    "length": "tokens of a reply",
    "repetition": "repeated trigrams",
    "parroting": "words of the persona",
    "kl": "log-ratio to the reference per token",
    "entropy": "entropy per token",
    "sync_kl": "trainer against engine after the sync, nats per token",
    "rollout_busy": "share of the update in which engines are busy",
    "nll": "negative log-prob per token of the preferred",
    "tokens_per_second": "tokens per second",
    "grad_norm": "gradient norm",
    "learning_rate": "learning rate",
}
"""Metrics of `aloe.schema.METRICS` that are drawn, in this order."""
_TOGETHER = {
    "rewards": (
        "rewards of both replies",
        {"preferred": "reward_preferred", "rejected": "reward_rejected"},
    ),
    "logprobs": (
        "log-prob per token",
        {"preferred": "logprob_preferred", "rejected": "logprob_rejected"},
    ),
    "lengths": (
        "tokens of both replies",
        {"preferred": "length_preferred", "rejected": "length_rejected"},
    ),
    "phases": (
        "seconds of a step",
        {phase: f"seconds_{phase}" for phase in ("forward", "backward", "update", "reference")},
    ),
    "updates": (
        "seconds of an update",
        {phase: f"seconds_{phase}" for phase in ("rollout", "experience", "update", "sync")},
    ),
}
"""Metrics of each step's batch that share a chart: name -> title, and metric by label. There is one
where the first of them is."""
_BY_TURN = {"margin_turn_": "reward margin", "reward_turn_": "reward"}
"""Prefix of what is measured for each turn on what is held out -> its name."""
_SERIES: dict[str, Json] = {
    "train, batch": {"line": {"color": BASE_COLOR, "width": 1.5, "dash": "dot"}},
    "train, all rows": {"line": {"color": COLORS[0], "width": 2}},
    "validation": {"line": {"color": COLORS[1], "width": 2}},
}

Points = list[tuple[int, float]]


def alignment_curves(scores: Mapping[str, Any] | None) -> list[Figure]:
    """AL(k) of every policy with its bootstrap interval (paper, section on the benchmark)."""
    if scores is None:
        return []
    traces: list[Json] = []
    for index, (name, policy) in enumerate(scores["policies"].items()):
        color = _color(index, name == scores["baseline"])
        traces += _curve_with_band(name, policy["al"], color, _SYMBOLS[index % len(_SYMBOLS)])
        if "knowable" in scores:
            best = scores["knowable"]["policies"][name]["best"]
            traces.append(_bound(f"AL* with {name}", best, color))
    low, high = scores["scale"]
    if "knowable" in scores:
        half = [{"turn": point["turn"], "value": (low + high) / 2} for point in policy["al"]]
        traces.append(_bound("one half", half, BASE_COLOR))
    turns = max(len(policy["al"]) for policy in scores["policies"].values())
    layout = {
        "hovermode": "x unified",
        "xaxis": {"title": {"text": "turn k"}, "dtick": math.ceil(turns / 12)},
        "yaxis": {"title": {"text": f"AL(k), scale {low:g} to {high:g}"}},
    }
    names = ", ".join(scores["policies"])
    alt = f"Alignment level by turn for {names}, with intervals; numbers in the table below."
    return [Figure("alignment", "alignment", "Alignment level by turn", alt, traces, layout)]


def knowledge_curves(scores: Mapping[str, Any] | None) -> list[Figure]:
    """Nats of information about the user's type in its messages up to each turn, and all there is.

    AL* in the alignment's figure is the best level that a reply to the same messages can have.
    """
    if scores is None or "knowable" not in scores:
        return []
    traces: list[Json] = []
    known = scores["knowable"]
    for index, name in enumerate(scores["policies"]):
        numbers = known["policies"][name]
        color = _color(index, name == scores["baseline"])
        traces += _curve_with_band(name, numbers["nats"], color, _SYMBOLS[index % len(_SYMBOLS)])
    all_there_is = [{"turn": point["turn"], "value": known["entropy"]} for point in numbers["nats"]]
    traces.append(_bound("all there is", all_there_is, BASE_COLOR))
    layout = {
        "xaxis": {"title": {"text": "turn k"}, "dtick": math.ceil(len(all_there_is) / 12)},
        "yaxis": {"title": {"text": "nats"}},
    }
    title = "What the user's messages tell of its type"
    alt = f"{title}, by turn: {', '.join(known['policies'])}."
    return [Figure("knowledge", "alignment", title, alt, traces, layout)]


def rollout_curves(rounds: Manifest | None) -> list[Figure]:
    """How well the replies suited that each round's rollout went on with, and the teacher's."""
    found = (rounds.results if rounds else {}).get("curves", {})
    traces: list[Json] = []
    for index, (name, numbers) in enumerate(found.items()):
        color = _color(index, name == "teacher")
        traces += _curve_with_band(name, numbers["al"], color, _SYMBOLS[index % len(_SYMBOLS)])
    layout = {"xaxis": {"title": {"text": "turn k"}}, "yaxis": {"title": {"text": "AL(k)"}}}
    title = "Level of the replies that rollouts went on with"
    alt = f"{title}, by turn: {', '.join(found)}."
    return [Figure("rollouts", "training", title, alt, traces, layout)] if traces else []


def _color(index: int, base: bool) -> str:
    """Of the curve with this place; the base stands first."""
    return BASE_COLOR if base else COLORS[(index - 1) % len(COLORS)]


def _bound(name: str, points: Sequence[Mapping[str, Any]], color: str) -> Json:
    turns, values = ([point[key] for point in points] for key in ("turn", "value"))
    return scatter(name, turns, values, "lines") | {
        "line": {"color": color, "width": 1, "dash": "dot"},
        "showlegend": False,
    }


def _curve_with_band(
    name: str, points: Sequence[Mapping[str, Any]], color: str, symbol: str
) -> list[Json]:
    turns, values, lows, highs = (
        [point[key] for point in points] for key in ("turn", "value", "low", "high")
    )
    sure = [(low, high) for low, high in zip(lows, highs, strict=True) if low is not None]
    band = scatter(name, turns + turns[::-1], highs + lows[::-1], "lines") | {
        "fill": "toself",
        "fillcolor": color,
        "opacity": 0.13,
        "line": {"width": 0},
        "hoverinfo": "skip",
        "showlegend": False,
    }
    curve = scatter(name, turns, values, "lines+markers") | {
        "line": {"color": color, "width": 2, "dash": "dot" if color == BASE_COLOR else "solid"},
        "marker": {"color": color, "symbol": symbol, "size": 8},
        "hoverinfo": "text",
        "hovertext": [
            plain(f"{name}  {value:.2f}" + ("" if low is None else f"  [{low:.2f}, {high:.2f}]"))
            for value, low, high in zip(values, lows, highs, strict=True)
        ],
    }
    return [band, curve] if sure else [curve]


def training_curves(metrics: Sequence[Mapping[str, Any]]) -> list[Figure]:
    """One chart for each stage and metric (rows of `aloe.schema.METRICS`).

    ``whole_X`` is X over all training rows; X of the train split is of one step's batch.
    """
    found: dict[tuple[str, str], dict[str, Points]] = {}
    for row in metrics:
        name = row["name"].removeprefix("whole_")
        batch = row["split"] == "train" and name == row["name"]
        series = "validation" if row["split"] != "train" else "train, all rows"
        points = found.setdefault((row["stage"], name), {})
        points.setdefault("train, batch" if batch else series, []).append(
            (row["step"], row["value"])
        )
    figures = []
    for stage in dict.fromkeys(stage for stage, _ in found):
        figures += [
            _training_curve(stage, name, found[stage, name])
            for name in _METRICS
            if (stage, name) in found
        ]
        for key, (title, labels) in _TOGETHER.items():
            shared = {
                label: found[stage, name]["train, batch"]
                for label, name in labels.items()
                if (stage, name) in found
            }
            if len(shared) > 1 and next(iter(labels)) in shared:
                figures.append(_shared_chart(stage, key, title, shared))
        for prefix, what in _BY_TURN.items():
            by_turn = {
                int(name.removeprefix(prefix)): points["validation"]
                for (of, name), points in found.items()
                if of == stage and name.startswith(prefix) and "validation" in points
            }
            if by_turn:
                figures.append(_by_turn(stage, what, by_turn))
    return figures


def _by_turn(stage: str, what: str, points: Mapping[int, Points]) -> Figure:
    """What is held out, turn by turn, as last measured."""
    turns = sorted(points)
    values = [max(points[turn])[1] for turn in turns]
    trace = scatter("validation", turns, values, "lines+markers")
    trace |= {"line": {"color": COLORS[1], "width": 2}, "hovertemplate": "turn %{x}: %{y:.4g}"}
    title = f"{TITLES[f'training/{stage}']} {what} by turn"
    layout = {"xaxis": {"title": {"text": "turn k"}, "dtick": math.ceil(len(turns) / 12)}}
    alt = f"{title}, on what is held out, after training."
    return Figure(f"{stage}-turns", "training", title, alt, [trace], layout)


def _shared_chart(stage: str, key: str, title: str, series: Mapping[str, Points]) -> Figure:
    traces = []
    for color, (label, points) in zip(COLORS, series.items(), strict=False):
        steps, values = zip(*sorted(points), strict=True)
        traces.append(
            scatter(label, list(steps), list(values), "lines")
            | {"line": {"color": color, "width": 1.5}, "showlegend": True}
            | {"hovertemplate": "step %{x}: %{y:.4g}"}
        )
    title = f"{TITLES[f'training/{stage}']} {title}"
    alt = f"{title} by optimizer step: {'; '.join(series)}."
    layout = {"xaxis": {"title": {"text": "optimizer step"}}}
    return Figure(f"{stage}-{key}", "training", title, alt, traces, layout)


def _training_curve(stage: str, name: str, series: Mapping[str, Points]) -> Figure:
    traces = []
    for label, style in _SERIES.items():
        points = sorted(series.get(label, []))
        if not points:
            continue
        mode = "lines+markers" if len(points) < 40 else "lines"
        traces.append(
            scatter(label, [step for step, _ in points], [value for _, value in points], mode)
            | style
            | {"marker": {"color": style["line"]["color"], "size": 6}}
            | {"showlegend": True, "hovertemplate": "step %{x}: %{y:.4g}"}
        )
    title = f"{TITLES[f'training/{stage}']} {_METRICS[name]}"
    alt = f"{title} by optimizer step: {'; '.join(sorted(series))}."
    layout = {"xaxis": {"title": {"text": "optimizer step"}}}
    return Figure(f"{stage}-{name}", "training", title, alt, traces, layout)
