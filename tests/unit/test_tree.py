import asyncio
import random

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aloe.config import DialogueConfig, ScriptedModel
from aloe.dialogue.branches import turns_from
from aloe.dialogue.tree import TreeSeed, grow_tree
from aloe.engines.scripted import ScriptedEngine
from aloe.errors import ContextExceeded, EngineDied, MalformedAnswer, UserError, WorldFault
from aloe.preferences.rows import pair_row, sft_row, walk
from aloe.roles import Persona
from aloe.schema import NODES, PAIRS, SFT, stable_id
from aloe.storage import Store

ROLES = ("user", "inducer", "guided", "unguided", "judge")


class Speaker(ScriptedEngine):
    """Counts its calls and keeps what they belong to; answers in an order of its own."""

    def __init__(self, delays: random.Random | None = None) -> None:
        super().__init__("script", ScriptedModel(backend="scripted"))
        self.delays, self.conversations = delays, []

    async def complete(self, request):
        self.conversations.append(request.conversation)
        for _ in range(self.delays.randrange(4) if self.delays else 0):
            await asyncio.sleep(0)
        return await super().complete(request)


def start_of(seed: int, tree: str = "t") -> TreeSeed:
    return TreeSeed(tree, Persona("p", "Keeps bees.", "Dry."), "train", seed, "f")


def grow(config: DialogueConfig, seed: int, engine=None, rows=(), keep=None) -> list[dict]:
    engines = dict.fromkeys(ROLES, engine or Speaker())
    return asyncio.run(grow_tree(start_of(seed), engines, config, rows, keep)).rows


def said(rows: list[dict]) -> list[tuple[str, str]]:
    return [(row["node_id"], row["text"]) for row in rows]


def as_stored(rows: list[dict]) -> list[dict]:
    """Rows as they come back from Parquet: with all columns and single precision."""
    return pa.Table.from_pylist(rows, schema=NODES).to_pylist()


def grown_branches(config: DialogueConfig) -> list[int]:
    """Breadth first, as many turns as the budget pays for, but at least one."""
    turns = range(config.turns)
    spine = [2**turn for turn in turns]
    order = spine if config.branching == "spine" else list(range(1, 2**config.turns))
    return order[: max(1, config.max_nodes // (1 + 2 * config.samples))]


shapes = st.builds(
    DialogueConfig,
    turns=st.integers(1, 4),
    branching=st.sampled_from(["spine", "both"]),
    samples=st.integers(1, 3),
    max_nodes=st.integers(3, 60),
)
seeds = st.integers(0, 10**6)


@given(config=shapes, seed=seeds)
@settings(deadline=None, max_examples=60)
def test_the_shape_of_a_tree(config, seed):
    nodes = grow(config, seed)
    by_id = {node["node_id"]: node for node in nodes}
    assert len(by_id) == len(nodes)
    branches = grown_branches(config)
    assert [node["branch"] for node in nodes if node["role"] == "user"] == branches
    assert len(nodes) == len(branches) * (1 + 2 * config.samples)
    assert len(nodes) <= max(config.max_nodes, 1 + 2 * config.samples)

    for branch in branches:
        user, *replies = (node for node in nodes if node["branch"] == branch)
        assert {node["turn"] for node in (user, *replies)} == {branch.bit_length()}
        assert [(node["role"], node["sample"]) for node in replies] == [
            (role, sample) for role in ("guided", "unguided") for sample in range(config.samples)
        ]
        assert {node["parent_id"] for node in replies} == {user["node_id"]}
        on_spine = branch.bit_count() == 1
        assert user["on_spine"] == on_spine
        assert sum(node["on_spine"] for node in replies) == on_spine
        if branch == 1:
            assert user["parent_id"] is None
            continue
        answered = by_id[user["parent_id"]]
        assert answered["branch"] == branch // 2
        assert answered["role"] != "user"
        if on_spine:
            assert answered["on_spine"]
        if branch % 2:
            (sibling,) = (n for n in nodes if n["branch"] == branch - 1 and n["role"] == "user")
            assert by_id[sibling["parent_id"]]["role"] != answered["role"]


@given(config=shapes, seed=seeds)
@settings(deadline=None, max_examples=30)
def test_each_guided_reply_is_judged_against_its_unguided_one(config, seed):
    nodes = grow(config, seed)
    replies = {(node["branch"], node["sample"], node["role"]): node for node in nodes}
    for branch in grown_branches(config):
        for sample in range(config.samples):
            pair = [replies[branch, sample, role] for role in ("guided", "unguided")]
            assert sum(reply["preferred"] for reply in pair) == 1
            assert sum(reply["judge_probability"] for reply in pair) == pytest.approx(1)
            assert max(pair, key=lambda reply: reply["judge_probability"])["preferred"]
            assert len({reply["judge_agrees"] for reply in pair}) == 1
            for reply in pair:
                assert [call["role"] for call in reply["calls"]] == [reply["role"], "judge"]
        (user,) = (n for n in nodes if n["branch"] == branch and n["role"] == "user")
        assert [call["role"] for call in user["calls"]] == ["user", "inducer"]


def spine_of(nodes: list[dict]) -> list[dict]:
    return [node for node in nodes if node["branch"].bit_count() == 1]


@given(turns=st.integers(1, 5), seed=seeds)
@settings(deadline=None, max_examples=30)
def test_branching_leaves_the_papers_tree_as_it_is(turns, seed):
    plain = grow(DialogueConfig(turns=turns), seed)
    assert spine_of(grow(DialogueConfig(turns=turns, branching="both"), seed)) == plain
    for node in plain:
        assert node["node_id"] == stable_id("t", node["turn"], node["role"])


@given(seed=seeds, samples=st.integers(2, 4))
@settings(deadline=None, max_examples=20)
def test_further_samples_leave_the_first_ones_as_they_are(seed, samples):
    (user, *plain) = grow(DialogueConfig(turns=1), seed)
    nodes = grow(DialogueConfig(turns=1, samples=samples), seed)
    assert nodes[0] == user
    for one, other in zip([n for n in nodes if n["sample"] == 0], plain, strict=True):
        assert one | {"on_spine": None} == other | {"on_spine": None}
    assert len({node["text"] for node in nodes}) > 3


@given(config=shapes, seed=seeds, data=st.data())
@settings(deadline=None, max_examples=60)
def test_a_tree_goes_on_from_any_turns_that_were_finished(config, seed, data):
    whole = grow(config, seed)
    branches = grown_branches(config)
    finished: set[int] = set()
    for branch in branches:
        if (branch == 1 or branch // 2 in finished) and data.draw(st.booleans()):
            finished.add(branch)
    log = as_stored([node for node in whole if node["branch"] in finished])
    log = data.draw(st.permutations(log))
    engine = Speaker(random.Random(seed))
    assert as_stored(grow(config, seed, engine, log)) == as_stored(whole)
    per_turn = 2 + 4 * config.samples
    assert len(engine.conversations) == (len(branches) - len(finished)) * per_turn
    assert set(engine.conversations) <= {"t"}


@given(config=shapes, seed=seeds)
@settings(deadline=None, max_examples=30)
def test_what_is_kept_is_always_a_tree_to_go_on_from(config, seed):
    logs: list[list[dict]] = []
    under_way = 0

    async def keep(rows: list[dict]) -> None:
        nonlocal under_way
        under_way += 1
        assert under_way == 1
        await asyncio.sleep(0)
        logs.append(rows)
        under_way -= 1

    whole = grow(config, seed, Speaker(random.Random(seed)), keep=keep)
    assert whole == grow(config, seed)
    assert len(logs) == len(grown_branches(config))
    assert logs[-1] == whole
    for log in logs:
        kept = {node["node_id"] for node in log}
        assert all(node["parent_id"] in kept for node in log if node["parent_id"] is not None)
    middle = logs[len(logs) // 2]
    assert grow(config, seed, rows=middle) == whole


def test_a_branch_goes_on_only_when_its_turn_is_kept():
    engine = Speaker()
    calls_at: list[int] = []

    async def keep(rows: list[dict]) -> None:
        before = len(engine.conversations)
        await asyncio.sleep(0.01)
        assert len(engine.conversations) == before
        calls_at.append(before)

    grow(DialogueConfig(turns=3), 1, engine, keep=keep)
    assert calls_at == [6, 12, 18]


def test_half_a_turn_is_held_again():
    config = DialogueConfig(turns=3)
    whole = grow(config, 5)
    assert grow(config, 5, rows=whole[:5]) == whole


@given(turns=st.integers(1, 6), seed=seeds)
@settings(deadline=None, max_examples=20)
def test_equal_seeds_grow_equal_trees(turns, seed):
    config = DialogueConfig(turns=turns)
    assert grow(config, seed) == grow(config, seed)
    assert grow(config, seed) != grow(config, seed + 1)


@pytest.mark.parametrize("samples", [1, 3])
def test_the_spine_is_drawn_at_random(samples):
    picks = [
        (node["role"], node["sample"])
        for seed in range(30)
        for node in grow(DialogueConfig(turns=3, samples=samples), seed)
        if node["on_spine"] and node["role"] != "user"
    ]
    assert 25 < sum(role == "guided" for role, _ in picks) < 65
    assert len(set(picks)) == 2 * samples


def test_trees_fit_their_schema(tmp_path):
    store = Store(str(tmp_path))
    nodes = grow(DialogueConfig(turns=3, branching="both", samples=2), 1)
    assert all(list(node) == NODES.names for node in nodes)
    store.write_table("n.parquet", nodes, NODES)
    back = store.read_table("n.parquet", NODES).to_pylist()
    assert back == as_stored(nodes)


@given(config=shapes, seed=seeds)
@settings(deadline=None, max_examples=60)
def test_rows_hold_the_history_that_was_held(config, seed):
    nodes = grow(config, seed)
    by_id = {node["node_id"]: node for node in nodes}
    views = list(walk(nodes))
    assert len(views) == len(grown_branches(config)) * config.samples
    for view in views:
        pair, sft = pair_row(view), sft_row(view)
        assert set(pair) == set(PAIRS.names)
        assert set(sft) == set(SFT.names)
        said, node = [], view.user
        while node is not None:
            said.append(("user" if node["role"] == "user" else "assistant", node["text"]))
            node = by_id.get(node["parent_id"])
        assert [(m["role"], m["content"]) for m in pair["prompt"][1:]] == said[::-1]
        assert pair["prompt"] == sft["prompt"]
        assert {view.preferred["role"], view.rejected["role"]} == {"guided", "unguided"}
        for reply in (view.preferred, view.rejected):
            assert reply["parent_id"] == view.user["node_id"]
            assert reply["sample"] == view.sample
        assert view.preferred["preferred"]
        assert (pair["preferred"], pair["rejected"]) == (
            view.preferred["text"],
            view.rejected["text"],
        )
        assert sft["response"] == pair["preferred"]
    assert len({pair_row(view)["pair_id"] for view in views}) == len(views)
    assert len({sft_row(view)["row_id"] for view in views}) == len(views)
    assert sum(view.on_spine for view in views) == len(spine_of(nodes)) // (1 + 2 * config.samples)


def test_two_preferred_replies_of_one_pair_are_refused():
    nodes = [node | {"preferred": True} for node in grow(DialogueConfig(turns=1), 0)]
    with pytest.raises(UserError, match="2 of 2 replies are preferred, expected 1 of 2"):
        list(walk(nodes))


class Mute(ScriptedEngine):
    """Answers until the given call, then nothing usable ever again."""

    def __init__(self, calls: int, error: type[Exception] = MalformedAnswer) -> None:
        super().__init__("mute", ScriptedModel(backend="scripted"))
        self.left, self.error = calls, error

    async def complete(self, request):
        completion = await super().complete(request)
        self.left -= 1
        if self.left < 0:
            raise self.error("nothing to say")
        return completion


def test_a_failed_turn_ends_its_branch_and_says_where_and_what_it_cost():
    engines = dict.fromkeys(ROLES, Speaker()) | {"judge": Mute(2)}
    config = DialogueConfig(turns=3)
    tree = asyncio.run(grow_tree(start_of(0), engines, config))
    (row,) = tree.ends
    assert (row["stage"], row["item_id"], row["turn"], row["role"]) == ("dialogue", "t", 2, "judge")
    assert (row["branch"], row["kind"]) == (2, "MalformedAnswer")
    assert len(row["calls"]) == 1
    assert row["calls"][0]["tries"] == 3
    assert {node["turn"] for node in tree.rows} == {1}
    assert said(tree.rows) == said(grow(config, 0)[:3])


@given(calls=st.integers(0, 13))
@settings(deadline=None, max_examples=14)
def test_only_what_hangs_on_a_failed_turn_is_missing(calls):
    engines = dict.fromkeys(ROLES, Speaker()) | {"judge": Mute(calls)}
    config, kept = DialogueConfig(turns=3, branching="both"), []

    async def keep_ends(ends):
        kept.append(ends)

    tree = asyncio.run(grow_tree(start_of(0), engines, config, keep_ends=keep_ends))
    held = {node["branch"] for node in tree.rows}
    ended = {row["branch"] for row in tree.ends}
    assert kept[-1] == tree.ends
    assert not held & ended
    assert len(held) + sum(turns_from(branch, config) for branch in ended) == 7
    assert all(branch == 1 or branch // 2 in held for branch in held | ended)

    # A resume does not try them again, and with their ends forgotten grows the rest.
    again = asyncio.run(grow_tree(start_of(0), engines, config, tree.rows, ends=tree.ends))
    assert again == tree
    assert said(grow(config, 0, rows=tree.rows)) == said(grow(config, 0))


def test_a_dialogue_without_room_for_another_turn_ends_there():
    engines = dict.fromkeys(ROLES, Speaker()) | {"user": Mute(2, ContextExceeded)}
    tree = asyncio.run(grow_tree(start_of(0), engines, DialogueConfig(turns=3)))
    assert {node["turn"] for node in tree.rows} == {1, 2}
    (row,) = tree.ends
    assert (row["turn"], row["kind"], row["calls"][0]["tries"]) == (3, "context", 1)


def test_what_nobody_can_do_now_is_no_fault_of_the_tree():
    engines = dict.fromkeys(ROLES, Speaker()) | {"judge": Spent()}
    with pytest.raises(WorldFault):
        asyncio.run(grow_tree(start_of(0), engines, DialogueConfig(turns=3, branching="both")))


class Spent(ScriptedEngine):
    """Its quota is spent."""

    def __init__(self) -> None:
        super().__init__("spent", ScriptedModel(backend="scripted"))

    async def complete(self, request):
        raise WorldFault("spent: insufficient_quota", passes=False)


def test_an_engine_that_is_gone_is_no_fault_of_the_tree():
    engines = dict.fromkeys(ROLES, Speaker()) | {"guided": Mute(1, EngineDied)}
    with pytest.raises(EngineDied):
        asyncio.run(grow_tree(start_of(0), engines, DialogueConfig(turns=3, branching="both")))
