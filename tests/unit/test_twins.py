"""Twins: nothing suits both, their user is a program, and what can be known of them is exact."""

from __future__ import annotations

import asyncio
import itertools
import math
import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aloe.config import (
    DialogueConfig,
    EvaluationConfig,
    PersonasConfig,
    PoolGrowth,
    SelectConfig,
    TwinsConfig,
    VerifiableModel,
)
from aloe.dialogue.rows import TreeSeed
from aloe.dialogue.tree import grow_tree
from aloe.engines.scripted import ScriptedEngine
from aloe.engines.verifiable import VerifiableEngine
from aloe.evaluation.case import Case, play_case
from aloe.evaluation.reading import what_is_read
from aloe.evaluation.results import by_twins
from aloe.evaluation.skills import count_skills
from aloe.personas.liking import likings
from aloe.personas.pairing import Member, count_personas, pair_pools
from aloe.roles import Persona, induce, say_user
from aloe.roles.text import user_message
from aloe.schema import stable_id
from aloe.verifiable import (
    CHECKS,
    OPPOSITE,
    PAIRS,
    Person,
    beliefs,
    best_share,
    conversation,
    expected_share,
    hinted,
    nats,
    program_reply,
    reply_that_meets,
    share_met,
    twin_of,
    types,
)
from aloe.verifiable.wordings import praise, topics, wordings

TYPE = st.sampled_from(types(list(PAIRS), 3))
REPLIES = st.lists(st.text(min_size=1).filter(str.strip), max_size=6)


@given(st.text())
def test_a_reply_meets_exactly_one_of_each_pair(reply):
    for pair in PAIRS.values():
        met = sum(CHECKS[kind].met(reply, "") for kind in pair)
        assert met == bool(reply.strip())


@pytest.mark.parametrize("words", [19, 20])
def test_length_has_one_threshold(words):
    assert CHECKS["long"].met("word " * words, "") == (words == 20)


@given(TYPE, st.integers())
def test_a_program_replies_as_it_is_asked(kinds, seed):
    assert share_met(kinds, reply_that_meets(kinds, random.Random(seed)), "") == 1


def levels(policy, kinds, turns=6, seed=0):
    """Share met by turn; ``policy``: (person, replies, turn) -> reply."""
    person, replies = Person(f"twins-{seed}", kinds), []
    for turn in range(turns):
        replies.append(policy(person, replies, turn))
    return np.array([share_met(kinds, reply, "") for reply in replies])


@given(TYPE, st.lists(st.text(min_size=1).filter(str.strip), min_size=6, max_size=6))
def test_whoever_does_not_read_the_user_scores_one_half_at_every_turn(kinds, said):
    def deaf(person, replies, turn):  # its own replies it may read
        return said[turn] + ("?" if len("".join(replies)) % 3 else "!")

    both = levels(deaf, kinds) + levels(deaf, twin_of(kinds))
    assert both / 2 == pytest.approx(np.full(6, 0.5))


@pytest.mark.parametrize("policy", ["constant", "random"])
def test_trivial_policies_score_one_half(policy):
    pairs = list(PAIRS)

    def say(person, replies, turn):
        return program_reply(policy, person, replies, pairs, turn)

    for kinds in types(pairs, 2):
        both = levels(say, kinds) + levels(say, twin_of(kinds))
        assert both / 2 == pytest.approx(np.full(6, 0.5))


def test_who_reads_comes_to_meet_all_and_the_oracle_does_from_the_start():
    pairs = ["question", "tone", "self"]
    found = {
        policy: np.mean(
            [
                levels(lambda p, r, t, which=policy: program_reply(which, p, r, pairs, t), kinds)
                for kinds in types(pairs, 3)
            ],
            axis=0,
        )
        for policy in ("ideal", "oracle")
    }
    assert found["ideal"][0] == 0.5
    assert (np.diff(found["ideal"]) >= 0).all()
    assert found["ideal"][-1] == 1
    assert (found["oracle"] == 1).all()


@given(TYPE, REPLIES, st.integers(0, 6))
def test_what_was_said_depends_on_what_was_answered_before_alone(kinds, replies, place):
    person = Person("twins", kinds)
    whole = conversation(person, replies)
    assert len(whole) == len(replies) + 1
    assert conversation(person, replies[:place]) == whole[: min(place, len(replies)) + 1]


@given(TYPE, REPLIES)
def test_hints_are_at_what_was_missed_and_praise_is_for_nothing_missed(kinds, replies):
    steps = conversation(Person("twins", kinds), replies)
    assert not steps[0].remark
    for step, reply in zip(steps[1:], replies, strict=True):
        lacking = [kind for kind in kinds if not CHECKS[kind].met(reply, "")]
        assert step.praise == (not lacking)
        assert step.hint in lacking or not lacking
    assert set(hinted(steps)) <= set(kinds)


@given(TYPE, REPLIES)
def test_twins_talk_of_the_same_and_never_hint_at_the_same(kinds, replies):
    person = Person("twins", kinds)
    twin = replace(person, kinds=twin_of(kinds))
    for one, other in zip(conversation(person, replies), conversation(twin, replies), strict=True):
        assert one.topic == other.topic
        assert one.hint is None or one.hint != other.hint


@given(TYPE, REPLIES)
def test_what_a_program_says_is_a_message_as_it_stands(kinds, replies):
    for step in conversation(Person("twins", kinds, "heldout"), replies):
        assert user_message(step.text, 3) == step.text


@pytest.mark.parametrize("kind", sorted(OPPOSITE))
def test_there_are_many_wordings_and_held_out_ones_are_others(kind):
    train, heldout = wordings(kind, "train"), wordings(kind, "heldout")
    assert len(train) >= 20
    assert len(heldout) >= 8
    every = [sentence.lower() for sentence in (*train, *heldout)]
    assert len(set(every)) == len(every)
    for sentence in every:
        for name in ("question mark", "exclamation", "emoji", "pronoun", "contraction"):
            assert name not in sentence


def test_topics_and_praise_are_divided_too():
    assert not {t.says for t in topics("train")} & {t.says for t in topics("heldout")}
    assert not set(praise("train")) & set(praise("heldout"))


@given(st.sampled_from(types(["question", "tone", "self"], 2)), REPLIES)
def test_beliefs_are_probabilities_and_never_rule_out_the_truth(kinds, replies):
    every = types(["question", "tone", "self"], 2)
    known = beliefs(every, conversation(Person("twins", kinds), replies), replies)
    assert len(known) == len(replies) + 1
    for belief in known:
        assert sum(belief.values()) == pytest.approx(1)
        assert belief[kinds] > 0
    assert nats(every, known[0], kinds) == pytest.approx(0)
    for reply in replies:
        assert expected_share(known[-1], reply) <= best_share(known[-1]) + 1e-9


def test_beliefs_follow_bayes_rule_in_numbers():
    """Two pairs, a reply that asks and exclaims: praise tells all, a hint of one leaves two."""
    every = types(["question", "tone"], 2)
    reply = ["How lovely! What is it?"]
    known = {
        kinds: beliefs(every, conversation(Person("t", kinds), reply), reply)[-1] for kinds in every
    }
    assert known["asks", "exclaims"] == {("asks", "exclaims"): 1.0}
    assert known["asks_nothing", "exclaims"] == {
        ("asks_nothing", "exclaims"): pytest.approx(2 / 3),
        ("asks_nothing", "calm"): pytest.approx(1 / 3),
    }
    assert nats(every, known["asks", "exclaims"], ("asks", "exclaims")) == pytest.approx(
        math.log(4)
    )
    with pytest.raises(ValueError, match="nobody"):
        steps = conversation(Person("t", ("asks", "exclaims")), reply)
        beliefs([("asks_nothing", "calm")], steps, reply)


# Personas


def config(**changes):
    values = {
        "writer": "w",
        "profiles": PoolGrowth(size=9),
        "personalities": PoolGrowth(size=8),
        "heldout_profiles": 3,
        "heldout_personalities": 2,
        "personalities_per_profile": 4,
        "twins": TwinsConfig(count=2, pairs=("question", "tone", "self")),
    }
    return PersonasConfig(**(values | changes))


@given(st.integers(0, 30), st.floats(0.05, 0.9), st.sampled_from([None, 5, 12]))
def test_twins_are_never_apart(seed, share, most):
    pools = [[Member(f"{kind}{n}", f"{kind} {n}.") for n in range(9)] for kind in ("life", "trait")]
    settings = config(max_personas=most)
    people = pair_pools(pools[0], pools[1][:8], settings, share, seed)
    rows = [person.row() for person in people]
    assert len({row["persona_id"] for row in rows}) == len(rows)
    for one, other in (
        itertools.batched(rows, 2)
        if hasattr(itertools, "batched")
        else zip(rows[::2], rows[1::2], strict=True)
    ):
        assert one["twin_id"] == other["twin_id"]
        assert one["split"] == other["split"]
        assert one["profile"] == other["profile"]
        assert tuple(other["preferences"]) == twin_of(one["preferences"])
        assert len(one["preferences"]) == 2
    talking, tested = count_personas({"profile": 9, "personality": 8}, settings)
    splits = [row["split"] for row in rows]
    assert splits.count("benchmark") == tested == 12
    assert len(rows) - tested == talking


def test_without_twins_a_persona_is_one_and_keeps_its_id():
    (liking,) = likings("p", config(twins=TwinsConfig()), 0)
    assert liking == ("p", (), None)


# Roles


KINDS = ("asks", "calm")
PERSONA = Persona("p", "Bakes.", "Shy.", KINDS, "twins", Person("twins", KINDS))
CHECKS_MODEL = VerifiableEngine("checks", VerifiableModel(backend="verifiable"))
HEARD = [
    {"role": "user", "content": "I bake."},
    {"role": "assistant", "content": "Wow!"},
]


def test_a_program_plays_user_and_inducer():
    said = asyncio.run(say_user(CHECKS_MODEL, PERSONA, HEARD, DialogueConfig().sampling, 1, seed=5))
    step = conversation(PERSONA.plan, ["Wow!"])[-1]
    assert said.value == step.text
    heard = [*HEARD, {"role": "user", "content": said.value}]
    note = asyncio.run(induce(CHECKS_MODEL, PERSONA, heard, 100, 1, 0)).value
    assert note.personality == CHECKS[step.hint].note
    first = asyncio.run(induce(CHECKS_MODEL, PERSONA, HEARD[:1], 100, 1, 0)).value
    assert first.personality is None


class Listening(ScriptedEngine):
    async def complete(self, request):
        self.heard = request
        return await super().complete(request)


def test_a_model_is_told_the_plan_of_its_turn():
    from aloe.config import ScriptedModel

    engine = Listening("s", ScriptedModel(backend="scripted"))
    asyncio.run(say_user(engine, PERSONA, HEARD, DialogueConfig().sampling, 1, seed=5))
    step = conversation(PERSONA.plan, ["Wow!"])[-1]
    told = engine.heard.messages[-1]["content"]
    assert step.topic in told
    assert CHECKS[step.hint].words in told
    assert step.remark not in told
    free = replace(PERSONA, plan=None)
    asyncio.run(say_user(engine, free, HEARD, DialogueConfig().sampling, 1, seed=5))
    assert engine.heard.messages[-1]["content"] == "Wow!"


# Selected replies


def grown(kinds, seed=0, turns=4, slips=0.4):
    settings = DialogueConfig(turns=turns, select=SelectConfig(samples=4, slips=slips))
    from aloe.config import ScriptedModel

    says = ("How nice! Why?", "How nice!", "How nice. Why?", "How nice.")
    talker = ScriptedEngine("s", ScriptedModel(backend="scripted", says=says))
    engines = {"user": CHECKS_MODEL, "inducer": CHECKS_MODEL, "guided": talker}
    person = Person("twins", kinds)
    persona = Persona(stable_id(*kinds), "Bakes.", "Shy.", kinds, "twins", person)
    start = TreeSeed(f"tree-{kinds}", persona, "train", seed, "f")
    return asyncio.run(grow_tree(start, engines, settings)).rows


@given(st.sampled_from(types(["question", "tone"], 2)), st.integers(0, 20))
def test_a_conversation_goes_on_with_one_of_the_best_unless_it_slips(kinds, seed):
    rows = grown(kinds, seed, slips=0.0)
    assert len(rows) == 4 * 5
    history = []
    for turn in range(1, 5):
        user, *replies = [row for row in rows if row["turn"] == turn]
        steps = conversation(Person("twins", kinds), history)
        assert user["text"] == steps[-1].text
        assert user["hint"] == steps[-1].hint
        known = hinted(steps)
        for reply in replies:
            assert reply["met"] == share_met(known, reply["text"], "")
            assert reply["selected"] == (bool(known) and reply["met"] == 1)
        (spoken,) = [reply for reply in replies if reply["on_spine"]]
        assert spoken["met"] == max(reply["met"] for reply in replies)
        history.append(spoken["text"])


def test_rows_of_selected_replies_and_of_twin_pairs():
    from aloe.config import PreferencesConfig
    from aloe.preferences.selected import rows_of_selected
    from aloe.roles import BUILT_IN

    twins = TwinsConfig(count=2, pairs=("question", "tone"))
    people = {("twins", kinds): f"id-{kinds}" for kinds in types(twins.pairs, 2)}
    for kinds in types(twins.pairs, 2):
        tree = grown(kinds)
        settings = PreferencesConfig(twins=True, min_margin=0.3)
        rows = rows_of_selected(tree, settings, twins, people, BUILT_IN)
        assert rows.turns == 4
        selected = {row["text"] for row in tree if row["selected"]}
        assert {row["response"] for row in rows.sft} <= selected
        assert rows.pairs
        for own, other in zip(rows.pairs[::2], rows.pairs[1::2], strict=True):
            assert (own["preferred"], own["rejected"]) == (other["rejected"], other["preferred"])
            assert own["turn"] == other["turn"] > 1
            assert own["persona_id"] != other["persona_id"] == f"id-{twin_of(kinds)}"
            said = [m["content"] for m in own["prompt"] if m["role"] == "assistant"]
            assert said == [m["content"] for m in other["prompt"] if m["role"] == "assistant"]
            assert share_met(kinds, own["preferred"], "") > share_met(kinds, own["rejected"], "")
        assert len({row["pair_id"] for row in rows.pairs}) == len(rows.pairs)
        plain = rows_of_selected(tree, PreferencesConfig(), twins, people, BUILT_IN)
        assert all(row["preferred"] != row["rejected"] for row in plain.pairs)


# The benchmark


def case(kinds, **changes):
    plan = Person("twins", kinds, "heldout")
    persona = Persona(stable_id(*kinds), "Bakes.", "Shy.", kinds, "twins", plan)
    return Case("c", "p", persona, 0, pairs=("question", "tone"), **changes)


@pytest.mark.parametrize(
    ("reads", "level"), [("conversation", 5.0), ("twin", 1.0), ("topics", 3.0), ("first", 3.0)]
)
def test_controls_of_a_policy_that_infers(reads, level):
    """It asks if told to ask and so on, by the wordings alone; the last of four turns."""
    found = []
    for kinds in types(["question", "tone"], 2):
        rows = asyncio.run(
            play_case(
                case(kinds, reads=reads),
                {"user": CHECKS_MODEL, "judge": CHECKS_MODEL, "policy": Inferring()},
                EvaluationConfig(turns=5),
            )
        )
        found.append([row["score"] for row in rows])
    assert np.mean(found, axis=0)[-1] == pytest.approx(level)


class Inferring(VerifiableEngine):
    """Looks up each hint in its list of wordings, and what praise says of its own last reply."""

    def __init__(self):
        super().__init__("inferring", VerifiableModel(backend="verifiable"))

    async def complete(self, request):
        known = {}
        talk = request.messages[1:]
        for place, message in enumerate(talk):
            if message["role"] != "user":
                continue
            for kind in ("asks", "asks_nothing", "exclaims", "calm"):
                for sentence in wordings(kind, "heldout"):
                    first, *rest = sentence.split("{thing}")
                    if message["content"].startswith(first) and (
                        not rest or rest[0] in message["content"]
                    ):
                        known[CHECKS[kind].group] = kind
            praised = any(message["content"].startswith(s.split("{")[0]) for s in praise("heldout"))
            if praised and place:
                before = talk[place - 1]["content"]
                for pair in ("question", "tone"):
                    met = [kind for kind in PAIRS[pair] if CHECKS[kind].met(before, "")]
                    known[pair] = met[0]
        kinds = [known.get(pair, PAIRS[pair][0]) for pair in ("question", "tone")]
        said = reply_that_meets(kinds, random.Random(0))
        return await super().complete(replace(request, said=said))


def test_what_is_read_keeps_who_speaks_when():
    heard = [*HEARD, {"role": "user", "content": "And now?"}]
    counts = {"conversation": 3, "twin": 3, "topics": 3, "first": 1, "last": 3}
    for reads, count in counts.items():
        messages, hint = what_is_read(reads, PERSONA, heard)
        assert hint is None
        assert len(messages) == count
        assert messages[0]["role"] == "user"
    messages, hint = what_is_read("persona", PERSONA, heard)
    assert hint.personality == "; ".join(CHECKS[kind].note for kind in KINDS)


@given(TYPE, st.lists(st.text(min_size=1).filter(str.strip), min_size=1, max_size=6))
def test_every_kind_of_every_turn_is_of_one_sort(kinds, replies):
    counts = count_skills(Person("twins", kinds), replies)
    assert counts[:, 1].sum() == len(kinds) * len(replies)
    assert (counts[:, 0] <= counts[:, 1]).all()
    assert counts[0, 1] <= len(replies)
    shares = sum(share_met(kinds, reply, "") for reply in replies)
    assert counts[:, 0].sum() == pytest.approx(shares * len(kinds))


def test_a_policy_that_never_changes_meets_nothing_that_it_is_told():
    for kinds in types(["question", "tone"], 2):
        counts = count_skills(Person("t", kinds), ["How nice!"] * 5)
        assert counts[:2, 0].tolist() == [0, 0]
        assert counts[2, 0] == 5 * sum(kind in ("asks_nothing", "exclaims") for kind in kinds)


def test_twins_are_one_case_and_half_a_pair_is_none():
    cases = {"a": np.array([1.0, 2.0]), "b": np.array([3.0, 4.0]), "c": np.array([5.0, 5.0])}
    merged = by_twins(cases, {"a": "x", "b": "x", "c": "y"})
    assert list(merged) == ["x"]
    assert merged["x"].tolist() == [2.0, 3.0]
    assert set(by_twins(cases, {})) == set("abc")
