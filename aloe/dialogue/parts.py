"""The rollout's files: trees in parts, a log for each open tree, and what makes a part final.

    dialogue/plan.json                    how the trees are divided, fixed at the first start
    dialogue/open/<part>/<number>.*       what its open trees have finished (aloe.dialogue.log)
    dialogue/open/<part>/starts.json      how often the part was begun without getting on
    dialogue/nodes/<part>.parquet         the part's trees, when all of them have ended
    dialogue/errors/<part>.parquet        branches of them that have ended by a failed call, if any
    dialogue/retried/<part>-<n>.parquet   rows of errors/ that were owed again (aloe.dialogue.retry)
    dialogue/parts/<part>.json            written last: the part is final, and what it cost

Only names of parts are ever listed by the driver. A kill between two of these writes costs nothing:
the part is put together again from its logs, to the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from operator import itemgetter
from typing import Any

import numpy as np
import numpy.typing as npt

from aloe.config import DialogueConfig
from aloe.dialogue.branches import nodes_per_turn, turns_from, turns_per_tree
from aloe.dialogue.log import STAGE
from aloe.dialogue.rows import CONTEXT
from aloe.dialogue.tree import Tree
from aloe.engines.judging import share_variance, votes_of
from aloe.roles import is_even
from aloe.schema import ERRORS, NODES, PERSONAS
from aloe.storage import Store, Usage
from aloe.storage.records import fitting, parse_record, read_record
from aloe.storage.slices import read_slice, rows_where_not

Row = dict[str, Any]

_PLAN = f"{STAGE}/plan.json"
_PERSONAS = "personas/personas.parquet"
_MARKERS_AT_ONCE = 1000


@dataclass(frozen=True)
class Plan:
    """How the personas that are rolled out are divided into parts."""

    trees: int
    part_size: int
    rows: list[list[int]]
    """First and last of each stretch of neighbours in ``personas.parquet`` that get a tree."""

    @property
    def parts(self) -> int:
        return -(-self.trees // self.part_size)

    def name(self, part: int) -> str:
        """Name of a part in files; names sort like numbers."""
        return f"{part:08d}"

    def personas(self, part: int) -> npt.NDArray[np.int64]:
        """Row numbers in ``personas.parquet`` of the personas of a part, ascending."""
        chosen: list[int] = []
        left_out = part * self.part_size
        for first, last in self.rows:
            size = last - first + 1
            begin = first + min(left_out, size)
            end = min(begin + self.part_size - len(chosen), last + 1)
            chosen += range(begin, end)
            left_out = max(left_out - size, 0)
        return np.array(chosen, np.int64)


@dataclass(frozen=True)
class Summary:
    """What one part came to."""

    trees: int = 0
    failed_trees: int = 0
    nodes: int = 0
    comparisons: int = 0
    """Pairs of replies that the judge compared."""
    agreements: int = 0
    """Comparisons in which both orders preferred the same reply."""
    failed_turns: int = 0
    """Turns that are missing because a call of theirs, or of one before, failed."""
    context_ends: int = 0
    """Branches that ended because the dialogue had outgrown a model's context."""
    replies: int = 0
    truncated: int = 0
    """Replies that max_tokens ended."""
    ties: int = 0
    """Comparisons that preferred neither reply, on average of both orders."""
    even: int = 0
    """Those of them that preferred neither in either order."""
    voted: int = 0
    """Comparisons whose probabilities are shares of votes."""
    vote_variance: float = 0.0
    """Sum of the variances of P(guided preferred) of these."""
    selected: int = 0
    """Replies of selected turns that meet all that was hinted at, where something was."""
    usage: Usage = field(default_factory=Usage)

    def __add__(self, other: Summary) -> Summary:
        return Summary(
            self.trees + other.trees,
            self.failed_trees + other.failed_trees,
            self.nodes + other.nodes,
            self.comparisons + other.comparisons,
            self.agreements + other.agreements,
            self.failed_turns + other.failed_turns,
            self.context_ends + other.context_ends,
            self.replies + other.replies,
            self.truncated + other.truncated,
            self.ties + other.ties,
            self.even + other.even,
            self.voted + other.voted,
            self.vote_variance + other.vote_variance,
            self.selected + other.selected,
            self.usage + other.usage,
        )


def begin_plan(store: Store, config: DialogueConfig) -> Plan:
    """The plan of this run folder, made if there is none.

    Raises:
        UserError: another version of this program has made it.
    """
    if store.exists(_PLAN):
        return read_record(store, _PLAN, "a plan", _plan, remove=STAGE)
    rows = rows_where_not(store, _PERSONAS, PERSONAS, "split", "benchmark")
    plan = Plan(len(rows), config.trees_per_part(len(rows)), _neighbours(rows))
    store.write_text(_PLAN, json.dumps(asdict(plan)) + "\n")
    return plan


def _plan(values: Any) -> Plan:
    return Plan(**fitting(Plan, values))


def _neighbours(rows: npt.NDArray[np.int64]) -> list[list[int]]:
    """First and last of each stretch of consecutive numbers."""
    if not len(rows):
        return []
    breaks = np.flatnonzero(np.diff(rows) > 1)
    firsts, lasts = np.append(rows[0], rows[breaks + 1]), np.append(rows[breaks], rows[-1])
    return [[int(first), int(last)] for first, last in zip(firsts, lasts, strict=True)]


def read_personas(store: Store, rows: npt.NDArray[np.int64]) -> list[Row]:
    """Rows of `aloe.schema.PERSONAS` by their numbers, in order."""
    return read_slice(store, _PERSONAS, PERSONAS, rows).to_pylist()


def missing_parts(store: Store, plan: Plan) -> list[int]:
    """Numbers of the parts that are not final."""
    final = set(store.names(STAGE, "parts"))
    return [part for part in range(plan.parts) if f"{plan.name(part)}.json" not in final]


def starts_of(store: Store, part: str, turns: int) -> int:
    """How often in a row the part was begun with as many finished turns.

    A part that ends its actor each time gets nowhere; one that is merely interrupted gets on.
    """
    name = f"{STAGE}/open/{part}/starts.json"
    if not store.exists(name):
        return 0
    before, starts = read_record(store, name, "a count of starts", itemgetter("turns", "starts"))
    return int(starts) if before == turns else 0


def count_start(store: Store, part: str, turns: int) -> int:
    """The first of a part's trees is begun; returns `starts_of` with it."""
    starts = starts_of(store, part, turns) + 1
    name = f"{STAGE}/open/{part}/starts.json"
    store.write_text(name, json.dumps({"turns": turns, "starts": starts}))
    return starts


def forget_start(store: Store, part: str) -> None:
    """A start that has stopped in order says nothing about the part."""
    store.remove(STAGE, "open", part, "starts.json")


def write_part(store: Store, part: str, trees: Sequence[Tree], config: DialogueConfig) -> Summary:
    """Make a part final: all of its trees have ended."""
    rows = [row for tree in trees for row in tree.rows]
    ends = [row for tree in trees for row in tree.ends]
    summary = sum((_summary(tree, config) for tree in trees), Summary())
    store.write_table(f"{STAGE}/nodes/{part}.parquet", rows, NODES)
    if ends:
        store.write_table(f"{STAGE}/errors/{part}.parquet", ends, ERRORS)
    else:  # of a time before they were tried again
        store.remove(f"{STAGE}/errors/{part}.parquet")
    store.write_text(f"{STAGE}/parts/{part}.json", json.dumps(asdict(summary)) + "\n")
    store.remove(STAGE, "open", part)
    return summary


def total(store: Store) -> Summary:
    """Sum over all final parts, from their markers, and the calls that were tried again."""
    names = [f"{STAGE}/parts/{name}" for name in store.names(STAGE, "parts")]
    summary = Summary()
    for start in range(0, len(names), _MARKERS_AT_ONCE):
        for name, text in store.read_texts(names[start : start + _MARKERS_AT_ONCE]).items():
            url = store.url(name)
            summary += parse_record(url, text, "a part's sum", _sum, store.url(STAGE))
    again = store.read_table(f"{STAGE}/retried", ERRORS, ["calls"]).to_pylist()
    return summary + Summary(usage=Usage.of_calls(_calls(again)))


def _sum(values: Any) -> Summary:
    fitting(Summary, values)
    if values.keys() != {field.name for field in fields(Summary)}:
        raise ValueError("fields are missing")
    return Summary(**{**values, "usage": Usage(**values["usage"])})


def _summary(tree: Tree, config: DialogueConfig) -> Summary:
    guided = [r for r in tree.rows if r["role"] == "guided" and r["judge_probability"] is not None]
    replies = [row for row in tree.rows if row["role"] != "user"]
    ties = [row for row in guided if is_even(row["judge_probability"])]
    ended = [row["finish_reason"] for row in replies]
    # A tree that cannot even begin is a failed one, whatever the reason.
    ends = [row["branch"] for row in tree.ends if row["kind"] == CONTEXT]
    outgrown = [branch for branch in ends if branch != 1]
    excused = sum(turns_from(branch, config) for branch in outgrown)
    held = len(tree.rows) // nodes_per_turn(config)
    return Summary(
        trees=int(bool(tree.rows)),
        failed_trees=int(not tree.rows),
        nodes=len(tree.rows),
        comparisons=len(guided),
        agreements=sum(row["judge_agrees"] for row in guided),
        selected=sum(bool(row["selected"]) for row in replies),
        failed_turns=turns_per_tree(config) - held - excused,
        context_ends=len(outgrown),
        replies=len(replies),
        truncated=ended.count("length"),
        ties=len(ties),
        even=sum(is_even(row["judge_shown_first"]) for row in ties),
        voted=sum(votes_of(_judged(row)) > 0 for row in guided),
        # Each reply holds one order; the variance of their mean is a quarter of the sum.
        vote_variance=sum(
            share_variance(r["judge_shown_first"], votes_of(_judged(r)))
            for r in replies
            if r["judge_shown_first"] is not None
        )
        / 4,
        usage=Usage.of_calls(_calls([*tree.rows, *tree.ends])),
    )


def _judged(reply: Row) -> str:
    """How the judge's call on a reply ended."""
    return next((c["finish_reason"] for c in reply["calls"] if c["role"] == "judge"), "")


def _calls(rows: Iterable[Row]) -> Iterator[Row]:
    return (call for row in rows for call in row["calls"])
