import json
import re

import pytest

from aloe.engines import Completion
from aloe.personas.lexicon import KINDS, off_topic
from aloe.personas.seeds import built_in_seeds
from aloe.personas.writing import FEWEST, MOST, read_candidates
from aloe.roles.sentences import split_sentences


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def seeds(kind):
    return built_in_seeds(kind)


def test_there_are_at_least_twenty_different_ones(seeds):
    assert len(set(seeds)) == len(seeds) >= 20


def test_each_has_eight_to_ten_sentences(seeds):
    counts = [len(split_sentences(seed)) for seed in seeds]
    assert FEWEST <= min(counts) <= max(counts) <= MOST


def test_profiles_hold_no_trait_and_personalities_no_occupation(kind, seeds):
    assert {seed: word for seed in seeds if (word := off_topic(kind, seed))} == {}


def test_none_would_be_rejected_as_a_models_answer(kind, seeds):
    plural = {"profile": "profiles", "personality": "personalities"}[kind]
    answer = json.dumps({plural: [split_sentences(seed) for seed in seeds]})
    candidates = read_candidates(kind, Completion(answer, "m", "stop", 1, 0, 1, 0.0))
    assert candidates == [{"text": seed, "verdict": ""} for seed in seeds]


def test_their_sentences_are_where_a_mark_and_a_space_are(seeds):
    """What the writer is shown of them stays what it was before any language could be set."""
    assert all(split_sentences(seed) == re.split(r"(?<=[.!?])\s+", seed) for seed in seeds)
