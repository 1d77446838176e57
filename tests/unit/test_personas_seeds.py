import json

import pytest

from aloe.config import PersonasConfig
from aloe.engines import Completion
from aloe.personas.lexicon import KINDS, off_topic
from aloe.personas.stage import starting_texts
from aloe.personas.writing import FEWEST, MOST, read_candidates, sentences_of

CONFIG = PersonasConfig.model_validate(
    {"writer": "w", "profiles": {"size": 1}, "personalities": {"size": 1}}
)


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def seeds(kind):
    return [candidate["text"] for candidate in starting_texts(kind, CONFIG)[0]["candidates"]]


def test_there_are_at_least_twenty_different_ones(seeds):
    assert len(set(seeds)) == len(seeds) >= 20


def test_each_has_eight_to_ten_sentences(seeds):
    counts = [len(sentences_of(seed)) for seed in seeds]
    assert FEWEST <= min(counts) <= max(counts) <= MOST


def test_profiles_hold_no_trait_and_personalities_no_occupation(kind, seeds):
    assert {seed: word for seed in seeds if (word := off_topic(kind, seed))} == {}


def test_none_would_be_rejected_as_a_models_answer(kind, seeds):
    plural = {"profile": "profiles", "personality": "personalities"}[kind]
    answer = json.dumps({plural: [sentences_of(seed) for seed in seeds]})
    candidates = read_candidates(kind, Completion(answer, "m", "stop", 1, 0, 1, 0.0))
    assert candidates == [{"text": seed, "verdict": ""} for seed in seeds]
