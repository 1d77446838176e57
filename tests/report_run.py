"""A run folder as the stages leave it, made of invented rows, for tests of the report."""

from __future__ import annotations

import json
import math
import random
from typing import Any

from aloe.config import Config
from aloe.schema import ERRORS, METRICS, NODES, POOL, stable_id
from aloe.storage import Manifest, Store, Usage

HOSTILE_PERSONA = (
    "A lighthouse keeper <script>window.__pwned=1</script> of 52 "
    '<img src=x onerror="window.__pwned=2"> who mends <b>nets</b> &amp; sings.'
)
HOSTILE_TEXT = "Well </script><script>window.__pwned=3</script> <!-- fine \u2028 {{ 7 * 7 }} & so."
_JOBS = ["baker", "nurse", "carpenter", "teacher", "gardener", "welder", "librarian", "tailor"]
_HOBBIES = ["chess", "climbing", "pottery", "birdwatching", "cycling", "sewing", "rowing"]
_TRAITS = ["patient", "blunt", "curious", "wry", "shy", "warm", "stubborn", "precise", "brisk"]


def report_config(root: str, **report: Any) -> Config:
    return Config.model_validate(
        {
            "run": {"dir": root, "seed": 3},
            "models": {"script": {"backend": "scripted"}},
            "roles": dict.fromkeys(["user", "inducer", "guided", "unguided", "judge"], "script"),
            "personas": {
                "writer": "script",
                "profiles": {"size": 40},
                "personalities": {"size": 20},
            },
            "training": {"base": "embedded://tiny"},
            "report": {"trees": 10, "title": "Demo run"} | report,
        }
    )


def write_run(store: Store, trees: int = 12, turns: int = 5) -> None:
    """Every stage complete, with text in persona and dialogue that tries to break out."""
    rng = random.Random(11)
    write_record(store)
    write_pools(store, rng)
    write_trees(store, trees, turns, rng)
    write_errors(store)
    _finish(store, "preferences", counts={"sft_rows": trees * turns, "pairs": trees * turns})
    write_training(store, rng)
    write_evaluation(store, turns * 2)


def write_record(store: Store) -> None:
    versions = {"aloe": "0.1.0", "vllm": "0.32.0", "ray": "2.60.0", "torch": "2.13.0"}
    made = {"versions": versions, "commit": "a" * 40, "seed": 3}
    store.write_text("run.json", json.dumps(made | {"created": "2026-11-25T09:30:00+00:00"}))


def write_pools(store: Store, rng: random.Random) -> None:
    files = {"profile": "profiles", "personality": "personalities"}
    for pool, size in (("profile", 36), ("personality", 28)):
        rows = [_entry(pool, i, rng) for i in range(size)]
        store.write_table(f"personas/{files[pool]}.parquet", rows, POOL)
    usage = Usage(14, 9_400, 5_100, completion_tokens=7_800, seconds=310.0)
    counts = {"profiles": 36, "personalities": 28}
    _finish(store, "personas", usage=usage, wall=160.0, counts=counts)


def _entry(pool: str, index: int, rng: random.Random) -> dict[str, Any]:
    text = HOSTILE_PERSONA if index == 0 else _persona_text(pool, rng)
    grown = index >= 20
    return {
        "entry_id": stable_id(pool, index),
        "pool": pool,
        "text": text,
        "source": "model" if grown else "seed",
        "round": index - 20 if grown else -1,
        "similarity": rng.uniform(0.3, 0.6) if grown else None,
        "heldout": index % 9 == 4,
        "embedding": [rng.gauss((index % 3) * (d % 5 == 0), 1.0) / 20 for d in range(384)],
    }


def _persona_text(pool: str, rng: random.Random) -> str:
    if pool == "personality":
        first, second, third = rng.sample(_TRAITS, 3)
        return f"{first.title()} and {second}, rarely {third}."
    job, hobby = rng.choice(_JOBS), rng.choice(_HOBBIES)
    return (
        f"A {rng.randint(21, 78)}-year-old {job} with two children who spends free evenings on "
        f"{hobby}, studied in a small coastal town and keeps a very old bicycle running."
    )


def write_trees(
    store: Store, trees: int, turns: int, rng: random.Random, per_part: int = 2
) -> None:
    for first in range(0, trees, per_part):
        nodes = []
        for index in range(first, min(first + per_part, trees)):
            nodes += tree_nodes(stable_id("tree", index), turns, rng, hostile=index % 2 == 0)
        store.write_table(f"dialogue/nodes/part-{first:05d}.parquet", nodes, NODES)
    calls = trees * turns * 6
    usage = Usage(
        calls, calls * 620, calls * 480, completion_tokens=calls * 41, seconds=calls * 2.4
    )
    _finish(store, "dialogue", usage=usage, wall=410.0, counts={"trees": trees, "failed_trees": 2})


def tree_nodes(
    tree_id: str,
    turns: int,
    rng: random.Random,
    hostile: bool = False,
    both: bool = False,
    samples: int = 1,
) -> list[dict[str, Any]]:
    """Rows of `aloe.schema.NODES` of one tree; with ``both`` all of its replies branch."""
    persona = {
        "tree_id": tree_id,
        "persona_id": stable_id(tree_id),
        "profile": HOSTILE_PERSONA if hostile else _persona_text("profile", rng),
        "personality": _persona_text("personality", rng),
        "split": "train",
        "seed": 3,
        "fingerprint": "f" * 16,
    }
    branches = range(1, 2**turns) if both else [2**turn for turn in range(turns)]
    nodes: list[dict[str, Any]] = []
    going_on: dict[int, str | None] = {1: None}  # by branch, the reply that it answers
    for branch in branches:
        turn, spine = branch.bit_length(), branch.bit_count() == 1
        said = f"I spent the whole evening on {rng.choice(_HOBBIES)} again."
        said = HOSTILE_TEXT if hostile and turn == 2 else said
        user = _node(persona, branch, "user", going_on[branch], said)
        user |= {"on_spine": spine, "calls": [_call("user", rng), _call("inducer", rng)]}
        user["induced_profile"] = f"Enjoys {rng.choice(_HOBBIES)}." if turn > 1 else None
        nodes.append(user)
        roles = rng.sample(["guided", "unguided"], 2)
        for sample in range(samples):
            nodes += _replies(persona, branch, sample, user["node_id"], rng)
        for child, role in enumerate(roles, start=2 * branch):
            going_on[child] = _node_id(tree_id, branch, role, 0)
        for node in nodes[-2 * samples :]:
            node["on_spine"] = spine and node["node_id"] == going_on[2 * branch]
    return nodes


def _replies(
    persona: dict[str, Any], branch: int, sample: int, parent: str, rng: random.Random
) -> list[dict[str, Any]]:
    first, second = rng.random(), rng.random()  # P(guided preferred) in each order
    mean = (first + second) / 2
    judged = {"guided": (mean, first), "unguided": (1 - mean, 1 - second)}
    nodes = []
    for role, (probability, shown_first) in judged.items():
        said = f"That sounds lovely. How long have you been at it? A {role} guess: for years."
        node = _node(persona, branch, role, parent, said, sample)
        node |= {"judge_probability": probability, "judge_shown_first": shown_first}
        preferred = (mean > 0.5) == (role == "guided")
        node |= {"preferred": preferred, "judge_agrees": (first > 0.5) == (second > 0.5)}
        node["calls"] = [_call(role, rng)] + [_call("judge", rng) for _ in range(role == "guided")]
        nodes.append(node)
    return nodes


def _node(
    persona: dict[str, Any],
    branch: int,
    role: str,
    parent: str | None,
    text: str,
    sample: int | None = None,
) -> dict[str, Any]:
    return persona | {
        "node_id": _node_id(persona["tree_id"], branch, role, sample),
        "parent_id": parent,
        "turn": branch.bit_length(),
        "branch": branch,
        "role": role,
        "sample": sample,
        "text": text,
        "reasoning": None,
        "finish_reason": "stop",
    }


def _node_id(tree_id: str, branch: int, role: str, sample: int | None) -> str:
    return stable_id(tree_id, branch, role, sample)


def _call(role: str, rng: random.Random) -> dict[str, Any]:
    return {
        "role": role,
        "model": "smollm2",
        "finish_reason": "stop",
        "tries": rng.choice([1, 1, 1, 2]),
        "prompt_tokens": rng.randint(200, 1400),
        "cached_tokens": rng.randint(0, 180),
        "reusable_tokens": 180,
        "completion_tokens": rng.randint(8, 60),
        "seconds": rng.uniform(0.5, 4.0),
        "cost_usd": 0.0,
        "replaced": 0,
    }


def write_errors(store: Store) -> None:
    rows = [
        {
            "stage": "dialogue",
            "item_id": stable_id(index),
            "persona_id": stable_id(index),
            "turn": 2,
            "role": "inducer",
            "kind": "MalformedAnswer",
            "message": f"expected a JSON object, got {HOSTILE_TEXT}",
            "calls": [],
        }
        for index in range(2)
    ]
    store.write_table("dialogue/errors/part.parquet", rows, ERRORS)


def write_training(store: Store, rng: random.Random) -> None:
    sides = [
        f"{what}_{side}" for what in ("reward", "length") for side in ("preferred", "rejected")
    ]
    phases = [f"seconds_{phase}" for phase in ("forward", "backward", "update", "reference")]
    for stage, start, end in (("sft", 2.9, 2.1), ("reward", 0.69, 0.5), ("dpo", 0.693, 0.41)):
        rows = []
        for step in range(1, 13):
            loss = end + (start - end) * math.exp(-step / 4) + rng.gauss(0, 0.02)
            rows.append(_metric(stage, "train", step, "loss", loss))
            rows.append(_metric(stage, "train", step, "grad_norm", 1 + rng.random()))
            rows.append(_metric(stage, "train", step, "tokens", 900.0))
            told = {"sft": ["entropy"], "reward": sides[:2], "dpo": ["kl", "entropy", *sides]}[
                stage
            ]
            rows += [_metric(stage, "train", step, name, rng.random()) for name in told + phases]
        for split, name in (("validation", "loss"), ("train", "whole_loss")):
            rows += [_metric(stage, split, 0, name, start), _metric(stage, split, 12, name, end)]
        if stage == "dpo":
            checks = [(0, 0.5), (12, 0.68)]
            rows += [_metric(stage, "validation", s, "accuracy_logprob", v) for s, v in checks]
            rows += [_metric(stage, "validation", 12, f"margin_turn_{k}", k / 9) for k in (1, 2, 3)]
        store.write_table(f"training/{stage}/metrics.parquet", rows, METRICS)
    sft = {"loss_before": 2.9, "loss_after": 2.15, "train_loss_first": 2.9, "train_loss_last": 2.1}
    dpo = {
        "pairs_validation": 60,
        "loss_before": 0.693,
        "loss_after": 0.46,
        "accuracy_before": 0.5,
        "accuracy_after": 0.68,
        "accuracy_interval_before": [0.38, 0.62],
        "accuracy_interval_after": [0.55, 0.79],
        "reward_accuracy_after": 0.71,
        "reward_accuracy_interval_after": [0.58, 0.81],
    }
    reward = {"accuracy_before": 0.52, "accuracy_after": 0.7}
    reward |= {"accuracy_interval_before": [0.4, 0.64], "accuracy_interval_after": [0.57, 0.8]}
    counts = {"steps": 12, "tokens": 10_800}
    _finish(store, "training/reward", wall=90.0, results=reward, counts=counts)
    _finish(store, "training/sft", wall=95.0, results=sft, counts=counts)
    _finish(store, "training/dpo", wall=140.0, results=dpo, counts=counts)


def _metric(stage: str, split: str, step: int, name: str, value: float) -> dict[str, Any]:
    return {"stage": stage, "split": split, "step": step, "name": name, "value": value}


def write_evaluation(store: Store, turns: int) -> None:
    """Three policies; the baseline's AL is constant, so that its N-IR is undefined."""
    slopes = {"base": 0.0, "sft": 0.03, "dpo": 0.07}
    policies = {}
    for offset, (name, slope) in enumerate(slopes.items()):
        curve = [2.6 + 0.15 * offset + slope * turn for turn in range(1, turns + 1)]
        policies[name] = {
            "cases": 24,
            "al": [{"turn": k + 1, **_estimate(value, 0.22)} for k, value in enumerate(curve)],
            "al_mean": _estimate(sum(curve) / turns, 0.15),
            "ir": _estimate(slope, 0.02),
            "n_ir": _estimate(0.1 if slope else None, 0.03),
            "r2": _estimate(0.93 if slope else None, 0.05),
        }
    paired = {
        "sft": {"al_mean": _estimate(0.31, 0.4), "ir": _estimate(0.03, 0.04)},
        "dpo": {"al_mean": _estimate(0.68, 0.3), "ir": _estimate(0.07, 0.03)},
    }
    results = {"baseline": "base", "scale": [1, 5], "policies": policies, "paired": paired}
    usage = Usage(1440, 1_220_000, 900_000, completion_tokens=39_000, seconds=2600.0)
    _finish(store, "evaluation", usage=usage, wall=380.0, counts={"cases": 24}, results=results)


def _estimate(value: float | None, half: float) -> dict[str, float | None]:
    if value is None:
        return {"value": None, "low": None, "high": None}
    return {"value": value, "low": value - half, "high": value + half}


def _finish(store: Store, stage: str, wall: float = 1.0, **parts: Any) -> None:
    Manifest(stage, {}, stable_id(stage), complete=True, wall_seconds=wall, **parts).save(store)
