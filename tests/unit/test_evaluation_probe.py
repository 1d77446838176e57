"""The probe finds what messages tell, and nothing where they tell nothing."""

from __future__ import annotations

import random

import numpy as np
import pytest

from aloe.evaluation.probe import Told, train_probe
from aloe.verifiable import Person, conversation, reply_that_meets, types

PAIRS = ("question", "tone")


def talk(number, kinds, wordings="train"):
    """Replies that meet kinds by chance, and what somebody said to them."""
    draw = random.Random(number)
    replies = [reply_that_meets([], draw) for _ in range(4)]
    return [step.text for step in conversation(Person(f"p{number}", kinds, wordings), replies)]


def told(people, wordings="train", deaf=False):
    draw = random.Random(len(people))
    found = []
    for number in people:
        kinds = draw.choice(types(PAIRS, 2))
        said = talk(number, draw.choice(types(PAIRS, 2)) if deaf else kinds, wordings)
        found += [
            Told(" ".join(said[: turn + 1]), kinds, f"t{number}") for turn in range(len(said))
        ]
    return found


def mean_nats(probe, items):
    found = probe([item.text for item in items])
    return np.mean(
        [
            sum(np.log(2 * found[kind][place]) for kind in item.preferences)
            for place, item in enumerate(items)
        ]
    )


def test_it_finds_what_others_tell_in_the_same_words_and_never_more_than_there_is():
    probe = train_probe(told(range(200)), PAIRS, 0)
    known = mean_nats(probe, told(range(1000, 1200)))
    assert 0.1 < known < 2 * np.log(2)


def test_messages_that_say_nothing_of_their_writer_tell_nothing():
    probe = train_probe(told(range(200), deaf=True), PAIRS, 0)
    assert mean_nats(probe, told(range(1000, 1200), deaf=True)) < 0.02


def test_probabilities_of_a_pair_sum_to_1_and_what_nobody_differs_in_is_even():
    probe = train_probe([Told("hello", ("asks",), "t")], PAIRS, 0)
    found = probe(["hello", "no"])
    assert set(found) == {"asks", "asks_nothing", "exclaims", "calm"}
    for one, other in (("asks", "asks_nothing"), ("exclaims", "calm")):
        assert found[one] + found[other] == pytest.approx([1, 1])
        assert found[one] == pytest.approx([0.5, 0.5])
