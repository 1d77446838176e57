"""What twins, selection, rounds and controls need of each other, told in one line each."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from aloe.config import Config


def values(**changes):
    """A configuration with twins; ``changes`` by dotted key."""
    found = {
        "run": {"dir": "x"},
        "models": {
            "m": {"backend": "vllm", "path": "embedded://tiny"},
            "script": {"backend": "scripted"},
            "checks": {"backend": "verifiable"},
        },
        "roles": {
            **dict.fromkeys(("user", "inducer", "judge"), "checks"),
            **dict.fromkeys(("guided", "unguided"), "m"),
        },
        "personas": {
            "writer": "script",
            "profiles": {"size": 9},
            "personalities": {"size": 9},
            "twins": {"count": 2},
        },
        "dialogue": {"select": {"samples": 2}},
        "preferences": {"twins": True},
        "training": {"base": "embedded://tiny", "rounds": {"steps": ["sft", "dpo"]}},
        "evaluation": {"policies": {"base": "base", "ideal": "program:ideal"}},
    }
    for key, value in changes.items():
        *path, last = key.split("__")
        node = found
        for part in path:
            node = node.setdefault(part, {})
        node[last] = value
    return found


def test_it_is_taken_as_it_stands():
    config = Config.model_validate(values())
    assert config.personas.twins.planned
    assert config.evaluation.condition("base").wordings == "heldout"
    assert config.training.checkpoint_of("rounds") == "training/rounds/02/training/dpo/checkpoint"
    assert config.training.checkpoint_before_round(1) == "training/sft/checkpoint"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"personas__twins": {"count": 3, "pairs": ["tone"]}}, "3 of 1 pairs"),
        ({"personas__twins": {"count": 1, "pairs": ["tone", "tone"]}}, "one stands twice"),
        ({"personas__twins": {"count": 1, "pairs": ["loudness"]}}, "pairs"),
        ({"personas__verifiable": {"count": 1}}, "twins: expected verifiable.count of 0"),
        ({"personas__twins": {"count": 0}}, "roles.user names .checks."),
        ({"personas__twins": {"count": 2, "hints": "model"}}, "personas.twins.hints: model"),
        ({"roles__user": "m"}, "personas.twins.hints: program"),
        ({"roles__guided": "checks"}, "roles.guided names 'checks'"),
        ({"personas__writer": "checks"}, "personas.writer names 'checks'"),
        ({"dialogue__start": ["a.jsonl"]}, "dialogue.start"),
        ({"dialogue__samples": 2}, "select: expected samples: 1"),
        ({"dialogue__branching": "both"}, "select: expected samples: 1 and branching: spine"),
        ({"dialogue__select": None}, "preferences.twins: expected dialogue.select"),
        ({"roles__unguided": "script"}, "training.rounds: roles.unguided is 'script'"),
        ({"training__rounds": {"steps": []}}, "steps"),
        ({"training__rounds": None, "training__dpo": {"start_from": "rounds"}}, "dpo.start_from"),
        ({"training__dpo": None}, "rounds.steps: dpo expects rounds.dpo"),
        ({"evaluation__policies": {"base": "program:best"}}, "program: and one of constant"),
        ({"evaluation__conditions": {"sft": {}}}, "conditions.sft: expected one of policies"),
        ({"evaluation__conditions": {"base": {"reads": "minds"}}}, "reads"),
        ({"preferences__sft_min_met": 0.5}, "sft_min_met: expected 0.0 with dialogue.select"),
        ({"preferences__drop_disagreements": True}, "drop_disagreements: expected False"),
        ({"evaluation__policies": {"base": "ppo"}}, "ppo is not trained, as training.ppo is null"),
        ({"language": "German"}, "personas.twins: its preferences are told"),
    ],
)
def test_what_does_not_go_together_is_refused(changes, message):
    with pytest.raises(ValidationError, match=message.replace("(", "\\(")):
        Config.model_validate(values(**changes))


@pytest.mark.parametrize("reads", ["twin", "topics"])
def test_controls_that_need_a_programs_words(reads):
    model = {
        "personas__twins": {"count": 2, "hints": "model"},
        "roles__user": "m",
        "preferences__twins": False,
        "training__rounds": {"steps": ["sft"]},
        "evaluation__conditions": {"base": {"reads": reads}},
    }
    with pytest.raises(ValidationError, match=f"reads: {reads} expects personas.twins"):
        Config.model_validate(values(**model))
    Config.model_validate(values(**model | {"evaluation__conditions": {"base": {"reads": "last"}}}))


@pytest.mark.parametrize("key", ["select", "rounds", "inducer", "program", "notes"])
def test_users_who_speak_freely_have_no_plan(key):
    free = {
        "personas__twins": {"count": 2, "hints": "free"},
        "roles__user": "m",
        "roles__inducer": "m",
        "dialogue__select": None,
        "preferences__twins": False,
        "training__rounds": None,
        "evaluation__policies": {"base": "base"},
    }
    Config.model_validate(values(**free))
    asked = {
        "select": {"dialogue__select": {}},
        "rounds": {"training__rounds": {}},
        "inducer": {"roles__inducer": "checks"},
        "program": {"evaluation__policies": {"base": "program:ideal"}},
        "notes": {"evaluation__conditions": {"base": {"reads": "notes"}}},
    }[key]
    with pytest.raises(ValidationError):
        Config.model_validate(values(**free | asked))
