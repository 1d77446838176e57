import asyncio
import json
import re

import pytest

from aloe.config import PersonasConfig, ScriptedModel
from aloe.engines import Completion
from aloe.engines.scripted import ScriptedEngine
from aloe.errors import EngineError, MalformedAnswer
from aloe.personas.lexicon import KINDS, off_topic
from aloe.personas.openings import draw_openings, guided_sentences
from aloe.personas.writing import read_candidates, write_candidates, writing_request

NINE = "Sells maps|Left home|Rents a boat|Has twins|Sings bass|Bakes pies|Owns a van|Fasts|Is 40"
GOOD = [f"{part} number {index}." for index, part in enumerate(NINE.split("|"))]
SHOWN = [" ".join(GOOD), " ".join(reversed(GOOD)), " ".join(GOOD[1:])]


def configuration(**changes):
    values = {"writer": "w", "profiles": {"size": 9}, "personalities": {"size": 9}} | changes
    return PersonasConfig.model_validate(values)


def completion(text):
    return Completion(text, "m", "stop", 1, 0, 1, 0.0)


def verdicts(kind, *lists):
    plural = {"profile": "profiles", "personality": "personalities"}[kind]
    answer = completion(json.dumps({plural: list(lists)}))
    return [candidate["verdict"] for candidate in read_candidates(kind, answer)]


def test_a_good_text_is_left_to_the_pool():
    (candidate,) = read_candidates("profile", completion(json.dumps({"profiles": [GOOD]})))
    assert candidate == {"text": " ".join(GOOD), "verdict": ""}


def test_a_missing_full_stop_and_stray_spaces_are_mended():
    rough = ["  Sells   maps number 0 ", *GOOD[1:]]
    (candidate,) = read_candidates("profile", completion(json.dumps({"profiles": [rough]})))
    assert candidate["text"] == " ".join(GOOD)


@pytest.mark.parametrize(
    ("verdict", "sentences"),
    [
        ("malformed", GOOD[:7]),
        ("malformed", [*GOOD, *GOOD]),
        ("malformed", "one text"),
        ("malformed", [*GOOD[1:], 3]),
        ("garbled", [*GOOD[1:], "Lives with the."]),
        ("garbled", [*GOOD[1:], "Lives in in town."]),
        ("garbled", ["Is from the isle of Man."] * 9),
        ("off_topic", [*GOOD[1:], "Is generous."]),
    ],
)
def test_a_text_of_no_use_is_marked(verdict, sentences):
    assert verdicts("profile", sentences) == [verdict]


def test_a_personality_must_not_name_an_occupation():
    assert verdicts("personality", [*GOOD[1:], "Talks like two teachers."]) == ["off_topic"]
    assert verdicts("personality", [*GOOD[1:], "Is generous."]) == [""]


@pytest.mark.parametrize("text", ["", "no", "[]", "{}", '{"profiles": []}', '{"profiles": "x"}'])
def test_an_answer_that_is_not_the_object_asked_for_is_refused(text):
    with pytest.raises(MalformedAnswer):
        read_candidates("profile", completion(text))


@pytest.mark.parametrize(("asked", "sizes"), [(1, [1, 1, 1]), (2, [2, 1]), (20, [3])])
def test_examples_are_answers_of_the_size_asked_for(asked, sizes):
    request = writing_request("profile", SHOWN, configuration(asked=asked), seed=1)
    answers = [m["content"] for m in request.messages if m["role"] == "assistant"]
    assert [len(json.loads(answer)["profiles"]) for answer in answers] == sizes
    told = [" ".join(part) for answer in answers for part in json.loads(answer)["profiles"]]
    assert told == SHOWN
    assert f"Write {asked} new" in request.messages[-1]["content"]


@pytest.mark.parametrize("kind", KINDS)
def test_requests_share_their_system_prompt(kind):
    requests = [writing_request(kind, SHOWN[:n], configuration(), n) for n in (1, 2)]
    assert requests[0].messages[0] == requests[1].messages[0]


@pytest.mark.parametrize("kind", KINDS)
def test_openings_are_named_and_enforced(kind):
    request = writing_request(kind, SHOWN, configuration(asked=1, openings=True), seed=3)
    assert request.json_schema is not None
    (texts,) = request.json_schema["properties"].values()
    openings = [line.split(". ", 1)[1] for line in request.messages[-1]["content"].split("\n")[1:]]
    assert 8 <= len(openings) <= 10
    for opening, part in zip(openings, texts["items"]["prefixItems"], strict=True):
        start = opening.removesuffix(" ...")
        assert re.fullmatch(part["pattern"], f"{start} a small town.") or start.endswith("old.")
        assert not re.fullmatch(part["pattern"], "Something else entirely.")


@pytest.mark.parametrize("kind", KINDS)
def test_openings_follow_the_seed_and_stay_on_topic(kind):
    drawn = [draw_openings(kind, seed) for seed in range(200)]
    assert draw_openings(kind, 7) == drawn[7]
    assert len({tuple(openings) for openings in drawn}) > 190
    assert all(off_topic(kind, " ".join(openings)) is None for openings in drawn)


def test_an_age_is_a_whole_sentence():
    (pattern,) = guided_sentences(["Is 44 years old."])["prefixItems"]
    assert re.fullmatch(pattern["pattern"], "Is 44 years old.")
    assert not re.fullmatch(pattern["pattern"], "Is 44 years older.")


@pytest.mark.parametrize("openings", [False, True])
def test_a_scripted_request_is_answered_once_and_counted(openings):
    engine = ScriptedEngine("script", ScriptedModel(backend="scripted"))
    config = configuration(asked=1, openings=openings)
    outcome = asyncio.run(write_candidates(engine, "profile", SHOWN, config, 4))
    assert len(outcome["candidates"]) == 1
    assert (outcome["error_kind"], outcome["calls"][0]["tries"]) == (None, 1)


class Silent:
    """A model that cannot be reached."""

    async def complete(self, request):
        raise EngineError("nobody there")

    def close(self):
        return None


def test_a_request_that_fails_is_an_outcome():
    outcome = asyncio.run(write_candidates(Silent(), "profile", SHOWN, configuration(tries=2), 4))
    assert outcome["candidates"] == []
    assert (outcome["error_kind"], outcome["error_message"]) == ("EngineError", "nobody there")
    assert outcome["calls"][0]["tries"] == 2
