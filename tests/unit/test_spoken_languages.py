"""Trees and cases in other languages: what is said stays as it is, and no English is told."""

import asyncio
import re
from contextlib import suppress

import pytest
from languages import ARABIC, CHINESE

from aloe.config import Config, JudgeConfig
from aloe.dialogue.rows import TreeSeed
from aloe.dialogue.tree import grow_tree
from aloe.engines.judging import Judge, read_vote
from aloe.engines.scripted import ScriptedEngine
from aloe.evaluation.case import Case, CaseFailed, play_case
from aloe.preferences.rows import pair_row, prompt_row, sft_row, walk
from aloe.roles import Persona, prompts_of
from aloe.roles.sentences import first_sentences, joined

ROLES = ("user", "inducer", "guided", "unguided", "judge", "policy")


class Recording:
    """An engine that keeps what it is asked."""

    def __init__(self, engine):
        self.engine, self.asked = engine, []
        self.load, self.release, self.close = engine.load, engine.release, engine.close

    async def complete(self, request):
        self.asked.append(request)
        return await self.engine.complete(request)


@pytest.fixture(params=[CHINESE, ARABIC], ids=lambda spoken: spoken.tag)
def spoken(request):
    return request.param


@pytest.fixture
def config(spoken, tmp_path):
    return Config.model_validate(spoken.values(tmp_path))


@pytest.fixture
def engine(config):
    return Recording(ScriptedEngine("script", config.models["script"]))


@pytest.fixture
def persona(spoken):
    return Persona("p", joined(list(spoken.facts)), joined(list(spoken.traits)))


def english(engine):
    """Latin words in what was asked."""
    said = " ".join(m["content"] for request in engine.asked for m in request.messages)
    return re.findall("[A-Za-z]+", said)


def test_a_tree_and_its_training_rows(spoken, config, engine, persona):
    start = TreeSeed("t", persona, "train", 1, "f", prompts_of(config))
    tree = asyncio.run(grow_tree(start, dict.fromkeys(ROLES, engine), config.dialogue))
    says = config.models["script"].says
    assert not tree.ends and english(engine) == []
    for row in tree.rows:
        if row["role"] == "user":
            assert row["text"] in {first_sentences(text, 3, spoken.tag) for text in says}
            noted = f"{row['induced_profile'] or ''}; {row['induced_personality'] or ''}"
            assert set(noted.split("; ")) <= {*says, ""}
        else:
            assert row["text"] in says
    system = spoken.templates()["dialogue"]["reply_system.jinja"]
    for view in walk(tree.rows):
        rows = [make(view, start.prompts) for make in (sft_row, pair_row, prompt_row)]
        assert all(row["prompt"][0] == {"role": "system", "content": system} for row in rows)


def test_a_users_message_has_three_sentences_at_most(spoken, config):
    long = [text for text in spoken.sayings if first_sentences(text, 3, spoken.tag) != text]
    assert len(long) == 1


def test_a_case_of_the_benchmark(config, engine, persona):
    case = Case("c", "mine", persona, 3, prompts_of(config))
    rows = asyncio.run(play_case(case, dict.fromkeys(ROLES, engine), config.evaluation))
    assert len(rows) == config.evaluation.turns and english(engine) == []
    assert all(row["reply"] in config.models["script"].says for row in rows)


def test_a_judge_that_votes_is_told_its_choices_without_words(config, engine, persona):
    judge = Judge(engine, JudgeConfig(by="votes", votes=2))
    case = Case("c", "mine", persona, 3, prompts_of(config))
    engines = dict.fromkeys(ROLES, engine) | {"judge": judge}
    with suppress(CaseFailed):  # the script says nothing that is a vote
        asyncio.run(play_case(case, engines, config.evaluation))
    asked = [request.messages[-1]["content"] for request in engine.asked]
    assert any(text.endswith("[1/2/3/4/5]") for text in asked) and english(engine) == []


@pytest.mark.parametrize("text", ["我选1。", "１", "1更好", "回复1更合适", "الرد 1", "पहला 1।"])
def test_a_vote_is_read_where_no_spaces_are_written(text):
    assert read_vote(text, ("1", "2")) == "1"


def test_without_a_folder_the_language_is_told_to_everybody(engine, persona, tmp_path):
    values = CHINESE.values(tmp_path / "again") | {"language": "German"}
    for owner in ("personas", "dialogue", "evaluation"):
        values[owner]["prompts"] = None
    config = Config.model_validate(values)
    start = TreeSeed("t", persona, "train", 1, "f", prompts_of(config))
    case = Case("c", "mine", persona, 3, prompts_of(config))
    engines = dict.fromkeys(ROLES, engine)
    asyncio.run(grow_tree(start, engines, config.dialogue))
    asyncio.run(play_case(case, engines, config.evaluation))
    for request in engine.asked:
        assert any("German" in message["content"] for message in request.messages)
        assert not any("on your mind today" in message["content"] for message in request.messages)
