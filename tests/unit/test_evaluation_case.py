import asyncio
import math

import pytest

from aloe.config import EvaluationConfig
from aloe.engines import Completion, Request
from aloe.errors import EngineError
from aloe.evaluation.case import Case, CaseFailed, play_case
from aloe.roles import Persona
from aloe.roles.prompts import render

PERSONA = Persona("p1", "Repairs bicycles in Ghent.", "Dry humour; dislikes small talk.")
CASE = Case("c1", "mine", PERSONA, seed=3)
CONFIG = EvaluationConfig(turns=3, tries=2)


class Speaker:
    """Says numbered messages and keeps what it was asked; fails on the calls it is told to."""

    def __init__(self, name: str, failing: tuple[int, ...] = ()) -> None:
        self.name, self.failing, self.requests = name, failing, []

    async def complete(self, request: Request) -> Completion:
        self.requests.append(request)
        number = len(self.requests)
        if number in self.failing:
            raise EngineError(f"call {number} lost")
        weights = {choice: 2.0 ** int(choice) for choice in request.choices}
        logprobs = {c: math.log(w / sum(weights.values())) for c, w in weights.items()}
        text = "5" if request.choices else f"{self.name} says {number}."
        return Completion(text, self.name, "stop", 10, 4, 3, 0.5, choice_logprobs=logprobs)

    def close(self) -> None:
        return None


def play(user=None, policy=None, judge=None, case=CASE):
    engines = {
        "user": user or Speaker("user"),
        "policy": policy or Speaker("policy"),
        "judge": judge or Speaker("judge"),
    }
    return asyncio.run(play_case(case, engines, CONFIG))


def test_one_row_per_turn_with_what_was_said_and_scored():
    rows = play()
    assert [row["turn"] for row in rows] == [1, 2, 3]
    assert [row["user"] for row in rows] == ["user says 1.", "user says 2.", "user says 3."]
    assert [row["reply"] for row in rows] == ["policy says 1.", "policy says 2.", "policy says 3."]
    assert {(row["case_id"], row["policy"], row["persona_id"]) for row in rows} == {
        ("c1", "mine", "p1")
    }
    assert [call["role"] for call in rows[0]["calls"]] == ["user", "policy", "judge"]


def test_every_call_names_its_case():
    speakers = {name: Speaker(name) for name in ("user", "policy", "judge")}
    play(**speakers)
    asked = [request for speaker in speakers.values() for request in speaker.requests]
    assert len(asked) == 9
    assert {request.conversation for request in asked} == {"c1"}


def test_score_is_the_expected_value_of_the_judges_probabilities():
    row = play()[0]
    assert sum(row["probabilities"]) == pytest.approx(1.0)
    # Weights 2, 4, 8, 16, 32 on 1..5.
    assert row["score"] == pytest.approx((2 + 2 * 4 + 3 * 8 + 4 * 16 + 5 * 32) / 62)


def test_policy_sees_the_conversation_and_nothing_of_the_persona():
    policy = Speaker("policy")
    play(policy=policy)
    texts = [message["content"] for message in policy.requests[2].messages[1:]]
    assert texts == [
        "user says 1.",
        "policy says 1.",
        "user says 2.",
        "policy says 2.",
        "user says 3.",
    ]
    for request in policy.requests:
        assert not any("bicycles" in message["content"] for message in request.messages)


def test_judge_sees_the_whole_persona_and_the_reply_under_its_own_history():
    judge = Speaker("judge")
    play(judge=judge)
    prompt = judge.requests[1].messages[-1]["content"]
    assert PERSONA.profile in prompt and PERSONA.personality in prompt
    said = ["user says 1.", "policy says 1.", "user says 2.", "policy says 2."]
    places = [prompt.index(text) for text in said]
    assert places == sorted(places)
    assert "digit" in prompt.splitlines()[-1]


def test_scoring_prompt_of_a_turn_starts_with_all_that_the_last_one_showed():
    history = [{"role": "user", "content": "Hi there"}]
    values = {"profile": "P", "personality": "T"}
    template = "evaluation/prompts/score.jinja"
    first = render(template, history=history, reply="Hello!", **values)
    history += [{"role": "assistant", "content": "Hello!"}, {"role": "user", "content": "Bye"}]
    second = render(template, history=history, reply="See you", **values)
    shown = first[: first.index("Hello!") + len("Hello!")]
    assert second.startswith(shown)  # so the prefix cache holds it


def test_samplers_seeds_do_not_depend_on_the_policy():
    users = [Speaker("user"), Speaker("user")]
    for user, name in zip(users, ("mine", "yours"), strict=True):
        play(user=user, case=Case(f"case of {name}", name, PERSONA, seed=3))
    seeds = [[request.seed for request in user.requests] for user in users]
    assert seeds[0] == seeds[1]
    assert len(set(seeds[0])) == CONFIG.turns


def test_a_lost_call_is_tried_again_and_counted():
    rows = play(policy=Speaker("policy", failing=(2,)))
    assert len(rows) == 3
    assert [row["calls"][1]["tries"] for row in rows] == [1, 2, 1]


def test_a_case_that_fails_names_turn_and_role_and_keeps_what_it_cost():
    with pytest.raises(CaseFailed, match="call 4 lost") as caught:
        play(judge=Speaker("judge", failing=(3, 4)))
    row = caught.value.row
    assert (row["stage"], row["item_id"], row["persona_id"]) == ("evaluation", "c1", "p1")
    assert (row["turn"], row["role"], row["kind"]) == (3, "judge", "EngineError")
    assert [call["role"] for call in row["calls"]] == ["user", "policy", "judge"] * 3
    assert row["calls"][-1]["tries"] == 2
