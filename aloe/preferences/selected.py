"""Rows of conversations that go on with selected replies: context distillation, and twin pairs.

SFT learns one reply of each turn that meets all that was hinted at, from the conversation alone:
whoever wrote it may have had notes (issue 19).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from aloe.config import PreferencesConfig, TwinsConfig
from aloe.engines import Message
from aloe.preferences.rows import Node, TreeRows, TurnView, pair_row, prompt_row, sft_row
from aloe.roles import Prompts, persona_of
from aloe.schema import stable_id
from aloe.verifiable import Belief, Step, beliefs, expected_share, types


def rows_of_selected(
    tree: list[Node],
    config: PreferencesConfig,
    twins: TwinsConfig,
    people: dict[tuple[str, tuple[str, ...]], str],
    prompts: Prompts,
) -> TreeRows:
    """Everything that is learned from one conversation.

    Args:
        tree: all nodes, in order of branches.
        people: persona id by twin id and kinds.
    """
    views = list(_turns(tree))
    learned = [view for view in map(_exemplary, views) if view is not None]
    if config.twins:
        pairs = list(_twin_pairs(views, config, twins, people, prompts))
    else:
        opposed = [_best_and_worst(view, config.min_margin) for view in views]
        pairs = [pair_row(view, prompts) for view in opposed if view is not None]
    return TreeRows(
        [sft_row(view, prompts) for view in learned],
        pairs,
        prompt_row(views[0], prompts),
        turns=len(views),
        comparisons=len(views),
        ties=len(views) - len(learned),
    )


def _turns(tree: list[Node]) -> Iterator[TurnView]:
    """Each turn, with the reply that the conversation goes on with as its first."""
    history: list[Message] = []
    for user in (node for node in tree if node["role"] == "user"):
        replies = [node for node in tree if node["parent_id"] == user["node_id"]]
        replies = [node for node in replies if node["role"] != "user"]
        spoken = next(node for node in replies if node["on_spine"])
        history = [*history, {"role": "user", "content": user["text"]}]
        others = tuple(node for node in replies if node is not spoken)
        yield TurnView(history, user, 0, spoken, spoken, siblings=others)
        history = [*history, {"role": "assistant", "content": spoken["text"]}]


def _exemplary(view: TurnView) -> TurnView | None:
    """The turn with a reply that meets all that was hinted at, if there is one: the one that was
    gone on with, or one that ended by itself."""
    selected = [node for node in (view.preferred, *view.siblings) if node["selected"]]
    if selected and selected[0] is not view.preferred:
        selected.sort(key=lambda node: bool(node["finish_reason"] != "stop"))
    return replace(view, preferred=selected[0]) if selected else None


def _best_and_worst(view: TurnView, margin: float) -> TurnView | None:
    """The turn with the two replies that differ most in what they meet of what was hinted at."""
    replies = sorted((view.preferred, *view.siblings), key=lambda node: -float(node["met"]))
    difference = replies[0]["met"] - replies[-1]["met"]
    if not difference or difference < margin:
        return None
    return replace(view, preferred=replies[0], rejected=replies[-1])


def _twin_pairs(
    views: Sequence[TurnView],
    config: PreferencesConfig,
    twins: TwinsConfig,
    people: dict[tuple[str, tuple[str, ...]], str],
    prompts: Prompts,
) -> Iterator[dict[str, Any]]:
    """Of each turn two replies, once in this conversation and once in the twin's, turned round.

    The twin's is what the twin would have said after the same replies. Which reply is better goes
    by what each of the two conversations tells, by Bayes' rule: a pair is made where they say the
    opposite, each by more than ``config.min_margin``.
    """
    persona = persona_of(views[0].user, planned=True)
    twin = persona.twin
    said = [view.preferred["text"] for view in views]
    every = types(twins.pairs, twins.count)
    steps = {name: who.planned_after(said[:-1]) for name, who in (("own", persona), ("twin", twin))}
    known = {name: beliefs(every, told, said) for name, told in steps.items()}
    for place, view in enumerate(views):
        best = _most_opposed(view, known["own"][place], known["twin"][place], config.min_margin)
        if best is None:
            continue
        better, worse = best
        yield pair_row(replace(view, preferred=better, rejected=worse), prompts)
        user = view.user | {
            "tree_id": stable_id("twin", view.user["tree_id"]),
            "node_id": stable_id("twin", view.user["node_id"]),
            "persona_id": people[view.user["twin_id"], twin.preferences],
        }
        heard = _conversation(steps["twin"][: place + 1], said)
        yield pair_row(
            replace(view, history=heard, user=user, preferred=worse, rejected=better), prompts
        )


def _most_opposed(
    view: TurnView, own: Belief, twin: Belief, margin: float
) -> tuple[Node, Node] | None:
    """The reply that is better here and worse there by most, and the other; None without any."""
    replies = [view.preferred, *view.siblings]
    gains = [
        (expected_share(own, node["text"]), expected_share(twin, node["text"])) for node in replies
    ]
    found, most = None, 0.0
    for better, (here, there) in zip(replies, gains, strict=True):
        for worse, (also_here, also_there) in zip(replies, gains, strict=True):
            least = min(here - also_here, also_there - there)
            if least > max(most, margin - 1e-9):
                found, most = (better, worse), least
    return found


def _conversation(steps: Sequence[Step], replies: Sequence[str]) -> list[Message]:
    """What somebody said, and between it what was answered."""
    messages: list[Message] = [{"role": "user", "content": steps[0].text}]
    for step, reply in zip(steps[1:], replies, strict=False):
        messages += [
            {"role": "assistant", "content": reply},
            {"role": "user", "content": step.text},
        ]
    return messages
