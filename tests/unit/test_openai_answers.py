"""What a body of status 200 is read as, and what a refusal is, one row per kind."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aloe.config import OpenAIModel, speaker_settings
from aloe.engines import Request
from aloe.engines.openai_access import is_loopback
from aloe.engines.openai_answers import (
    Complained,
    NoAnswer,
    choice_logprobs,
    read_answer,
    with_estimates,
)
from aloe.engines.openai_faults import Verdict, complaint_in, refused_parameter, verdict
from aloe.engines.openai_parameters import (
    Habits,
    body_of,
    first_habits,
    learned,
    not_honoured,
    sent_parameters,
)

SENT = frozenset(
    {
        "temperature",
        "top_p",
        "seed",
        "max_completion_tokens",
        "stop",
        "logprobs",
        "top_logprobs",
        "response_format",
        "system",
    }
)


def body(choice: Any = None, **more: Any) -> bytes:
    default = {"message": {"content": "Hi."}, "finish_reason": "stop"}
    return json.dumps({"choices": [default if choice is None else choice], **more}).encode()


def said(content: Any, finish: Any = "stop", **message: Any) -> bytes:
    return body({"message": {"content": content, **message}, "finish_reason": finish})


@pytest.mark.parametrize(
    ("raw", "text", "reasoning", "finish"),
    [
        (said("Hi."), "Hi.", "", "stop"),
        (said("Hi.", None), "Hi.", "", "stop"),
        (said("Hi.", "eos"), "Hi.", "", "stop"),
        (said("Hi", "length"), "Hi", "", "length"),
        (said("Hi", "MAX_TOKENS"), "Hi", "", "length"),
        (said(None), "", "", "stop"),
        (said([{"type": "text", "text": "H"}, {"type": "text", "text": "i."}]), "Hi.", "", "stop"),
        (said(["H", {"text": "i."}, 7, {"type": "image_url"}]), "Hi.", "", "stop"),
        (
            said([{"type": "thinking", "thinking": [{"type": "text", "text": "So"}]}, "Hi."]),
            "Hi.",
            "So",
            "stop",
        ),
        (said("Hi.", reasoning_content="So"), "Hi.", "So", "stop"),
        (said("Hi.", reasoning="So"), "Hi.", "So", "stop"),
        (said("Hi.", reasoning=None, reasoning_content=None), "Hi.", "", "stop"),
        (said("<think>\nSo\n</think>\n\nHi."), "Hi.", "So", "stop"),
        (said("So\n</think>\n\nHi."), "Hi.", "So", "stop"),
        (said("[THINK]So[/THINK]Hi."), "Hi.", "So", "stop"),
        (said("<think>So", "length"), "", "So", "length"),
        (said("Say <think> aloud."), "Say <think> aloud.", "", "stop"),
        (said(None, refusal="No."), "", "", "refusal"),
        (said([{"type": "refusal", "refusal": "No."}]), "", "", "refusal"),
        (said("Hi.", refusal=""), "Hi.", "", "stop"),
        (said("Hi", "content_filter"), "", "", "content_filter"),
        (said("Hi", "SAFETY"), "", "", "content_filter"),
        (said("Hi", "PROHIBITED_CONTENT"), "", "", "content_filter"),
        (said("Hi", "RECITATION"), "", "", "content_filter"),
        (said("Hi", "blocklist"), "", "", "content_filter"),
        (said("Hi", "spii"), "", "", "content_filter"),
        (said("Hi", "guardrail_intervened"), "", "", "content_filter"),
        (said("Hi", {"type": "length"}), "Hi", "", "length"),
        (said("Hi", "model_context_window_exceeded"), "Hi", "", "length"),
        (said("Hi.", "eos_token"), "Hi.", "", "stop"),
        (said("Hi.", "stop_sequence"), "Hi.", "", "stop"),
        (said("Hi.", "end_turn"), "Hi.", "", "stop"),
        (said("Hi.", ["stop"]), "Hi.", "", "stop"),
        (b"\xef\xbb\xbf" + said("Hi."), "Hi.", "", "stop"),
    ],
)
def test_a_usable_answer_is_read_for_what_was_said(raw, text, reasoning, finish):
    found = read_answer(raw)
    assert (found.text, found.reasoning, found.finish_reason) == (text, reasoning, finish)


@pytest.mark.parametrize(
    "usage",
    [{}, {"usage": None}, {"usage": {"prompt_tokens": None, "completion_tokens": "9"}}],
    ids=["none", "null", "odd"],
)
def test_counts_that_are_missing_are_zero(usage):
    found = read_answer(body(**usage))
    assert (found.prompt_tokens, found.cached_tokens, found.completion_tokens) == (0, 0, 0)
    assert found.text == "Hi."


BROKEN_OFF = ["insufficient_system_resource", "error", "abort", "cancelled", "unload", "timeout"]
BROKEN_OFF += ["network_error", "OTHER", {"type": "abort"}]


@pytest.mark.parametrize(
    ("raw", "items"),
    [
        (b"<html>busy</html>", False),
        (b"", False),
        (b"[1]", False),
        (b"[" * 100_000, False),
        (b"null", False),
        (b'{"choices": []}', True),
        (b'{"choices": null}', True),
        (b'{"choices": [null]}', True),
        (body({"message": None}), True),
        (body({"finish_reason": "stop"}), True),
        *((said("I like to kee", end), False) for end in BROKEN_OFF),
    ],
)
def test_a_body_without_an_answer_says_whose_fault_it_may_be(raw, items):
    with pytest.raises(NoAnswer) as none:
        read_answer(raw)
    assert none.value.items is items
    assert len(str(none.value)) < 200


def test_whole_numbers_count_however_they_are_written():
    found = read_answer(body(usage={"prompt_tokens": 50.0, "completion_tokens": 7.5}))
    assert (found.prompt_tokens, found.completion_tokens) == (50, 0)
    assert read_answer(body(usage={"prompt_tokens": 10**30})).prompt_tokens == 0


def test_what_is_not_counted_is_estimated():
    asked = [{"role": "user", "content": "x" * 40}]
    found = with_estimates(read_answer(said("Hello there.")), asked)
    assert (found.prompt_tokens, found.completion_tokens) == (10, 3)
    counted = read_answer(body(usage={"prompt_tokens": 50, "completion_tokens": 7}))
    assert with_estimates(counted, asked) is counted


def test_what_is_no_character_is_replaced_and_counted():
    found = read_answer(said("That \ud83d is\x00 fun 😀", reasoning="\udc00"))
    assert (found.text, found.reasoning, found.replaced) == ("That � is� fun 😀", "�", 3)


def test_what_is_no_character_in_a_refusal_is_replaced_too():
    error = {"message": "bad \ud83d \x00", "code": "\udc00", "param": "\ud83d"}
    with pytest.raises(Complained) as complained:
        read_answer(json.dumps({"error": error}).encode())
    assert str(complained.value) == "bad � �"
    for status, told in (
        (400, {"error": error}),
        (400, "bad \ud83d \x00"),
        (None, {"msg": ["\ud83d"]}),
    ):
        found = complaint_in(status, told)
        text = "".join((found.message, found.code, found.param, found.told))
        assert text.encode().decode() == text and "\x00" not in text


@given(st.text(st.characters(codec="utf-8", exclude_characters="\x00")))
def test_any_text_comes_through_unchanged(text):
    # A block of thoughts is the one thing that is taken out.
    if "think" not in text.lower():
        assert read_answer(said(text)).text == text


VALUES: list[Any] = [None, True, 0, -1, 2.5, math.inf, "", "text", "\ud83d", [], {}, [None]]
VALUES += [["x"], [[]], [{}], {"type": "text"}, [{"type": "text", "text": 3}]]
VALUES += [[{"type": "thinking", "thinking": {}}], {"code": "429"}, {"message": {}, "code": []}]
VALUES += [[{"token": "1", "logprob": math.nan}]]
VALUES += [[{"token": "1", "top_logprobs": [{"token": "1", "logprob": None}, None]}]]
ODD = st.sampled_from(VALUES)


def odd(**parts: Any) -> st.SearchStrategy[Any]:
    return ODD | st.fixed_dictionaries({}, optional=parts)


CHOICE = odd(
    message=odd(content=ODD, refusal=ODD, reasoning=ODD),
    finish_reason=ODD,
    logprobs=odd(content=ODD),
    error=ODD,
)


@given(odd(choices=ODD | st.lists(CHOICE, max_size=2), usage=odd(prompt_tokens=ODD), error=ODD))
def test_no_body_raises_anything_else(value):
    try:
        found = read_answer(json.dumps(value).encode())
    except (NoAnswer, Complained):
        return
    found.text.encode()
    found.reasoning.encode()


@pytest.mark.parametrize(
    ("status", "error", "expected"),
    [
        (429, {"message": "slow down", "code": "rate_limit_exceeded"}, Verdict.AGAIN),
        (429, {"message": "You exceeded your quota", "code": "insufficient_quota"}, Verdict.WORLD),
        (429, {"message": "You exceeded your current quota"}, Verdict.WORLD),
        (429, {"message": "You exceeded your current quota. Retry in 32 s"}, Verdict.AGAIN),
        (402, {"message": "Insufficient Balance"}, Verdict.WORLD),
        (400, {"message": "Your credit balance is too low"}, Verdict.WORLD),
        (403, {"message": "Your account has been deactivated"}, Verdict.WORLD),
        (401, {"message": "Incorrect API key"}, Verdict.KEY),
        (403, {"message": "Forbidden"}, Verdict.KEY),
        (400, {"message": "API key not valid. Please pass a valid API key."}, Verdict.KEY),
        (403, {"message": "Your input was flagged by moderation"}, Verdict.ITEM),
        (
            404,
            {"message": "The model `m` does not exist", "code": "model_not_found"},
            Verdict.WORLD,
        ),
        (404, {"message": "model 'llama9' not found, try pulling it first"}, Verdict.WORLD),
        (404, "404 page not found", Verdict.WORLD),
        (400, {"message": "Model Not Exist"}, Verdict.WORLD),
        (400, {"message": "m is not a valid model ID"}, Verdict.WORLD),
        (500, {"message": "logprobs crashed"}, Verdict.AGAIN),
        (502, "<html>", Verdict.AGAIN),
        (503, {"message": "Model is loading"}, Verdict.AGAIN),
        (529, {"type": "overloaded_error"}, Verdict.AGAIN),
        (408, {}, Verdict.AGAIN),
        (
            400,
            {"message": "maximum context length is 4096; max_tokens is too large"},
            Verdict.TOO_LONG,
        ),
        (400, {"message": "bad", "code": "context_length_exceeded"}, Verdict.TOO_LONG),
        (413, {"message": "Request too large"}, Verdict.ITEM),
        (400, {"message": "content management policy", "code": "content_filter"}, Verdict.ITEM),
        (400, {"message": "Something odd"}, Verdict.ITEM),
        (400, {"message": "'seed' is not supported"}, Verdict.PARAMETER),
        (400, {"message": "For model m, seed is not available"}, Verdict.PARAMETER),
        (None, {"message": "Provider returned error", "code": 429}, Verdict.AGAIN),
        (None, {"message": "Provider returned error", "code": 502}, Verdict.AGAIN),
        (None, {"message": "no words"}, Verdict.AGAIN),
        (None, {"message": "Insufficient credits", "code": 402}, Verdict.WORLD),
        (None, {"message": "No auth credentials found", "code": 401}, Verdict.KEY),
        (None, {"message": "flagged", "code": 403}, Verdict.ITEM),
        (None, "overloaded", Verdict.AGAIN),
    ],
)
def test_the_table_of_refusals(status, error, expected):
    assert verdict(complaint_in(status, {"error": error}), SENT) is expected
    if isinstance(error, dict) and status is not None:  # the client takes the error out
        assert verdict(complaint_in(status, error), SENT) is expected


@pytest.mark.parametrize(
    ("status", "error", "name"),
    [
        (400, {"message": "Unsupported value", "param": "temperature"}, "temperature"),
        (400, {"message": "no", "param": "response_format.type"}, "response_format"),
        (
            400,
            {
                "message": "Unsupported parameter: 'max_completion_tokens' is not supported with "
                "this model. Use 'max_tokens' instead."
            },
            "max_completion_tokens",
        ),
        (400, {"message": "top_logprobs must be at most 5"}, "top_logprobs"),
        (400, {"message": "logprobs is not supported"}, "logprobs"),
        (422, {"detail": [{"loc": ["body", "top_p"], "msg": "Extra inputs forbidden"}]}, "top_p"),
        (400, {"message": "Json mode is not supported by this model"}, "response_format"),
        (400, {"message": "System role not supported"}, "system"),
        (400, {"message": 'Unknown name "seed": Cannot find field.'}, "seed"),
        (400, {"message": "We stop here, that is invalid"}, None),
        (400, {"message": "stop is invalid"}, "stop"),
        (400, {"message": "unsupported image"}, None),
        (404, {"message": "'seed' is not supported"}, None),
    ],
)
def test_a_refused_parameter_is_found_in_what_the_server_says(status, error, name):
    assert refused_parameter(complaint_in(status, error), SENT) == name


def model(**settings: Any) -> OpenAIModel:
    return OpenAIModel(backend="openai", model="m", **settings)


CHAT = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hello."}]
SCHEMA = {"type": "object"}


def test_a_body_shrinks_with_every_refusal_until_nothing_is_left_to_refuse():
    one, requests = model(), [Request(CHAT, stop=("x",), json_schema=SCHEMA)]
    requests.append(Request(CHAT, choices=("1", "2")))
    for request in requests:
        habits, bodies = first_habits(one), []
        while sent := sent_parameters(body_of(request, one, habits), one):
            bodies.append(body_of(request, one, habits))
            name = sorted(sent)[0]
            habits, _ = learned(habits, name, bodies[-1].get(name))
            assert body_of(request, one, habits) not in bodies
        assert body_of(request, one, habits).keys() == {"model", "messages"}
        assert not_honoured(habits) == ["max_tokens", "seed", "temperature", "top_p"]
        assert len(bodies) <= 10


GREEDY, LONG = Request(CHAT, choices=("1", "2")), Request(CHAT, max_tokens=30_000)
HOT, WIDE = Request(CHAT, temperature=1.5), Request(CHAT, top_p=1.0)
STOPS = Request(CHAT, stop=("\n\n", "a", "b", "c", "d", "e"))
LIMIT = "max_completion_tokens"


@pytest.mark.parametrize(
    ("request_", "name", "message", "sent", "others"),
    [
        (GREEDY, "temperature", "must be strictly positive", 0.01, 0.8),
        (HOT, "temperature", "range: 0..1", 1.0, 0.8),
        (WIDE, "top_p", "must be > 0.0 and < 1.0", None, 0.95),
        (STOPS, "stop", "array too long", ["a", "b", "c", "d"], ["x"]),
        (GREEDY, LIMIT, "Expected a value >= 16, but got 1 instead", 16, 300),
        (LONG, LIMIT, "is too large: 30000. This model supports at most 16384", 16384, 300),
        (LONG, LIMIT, "Range of max_tokens should be [1, 8192]", 8192, 300),
        (LONG, LIMIT, "is too large", 15_000, 300),
    ],
)
def test_a_refused_value_changes_the_calls_that_have_it(request_, name, message, sent, others):
    one = model()
    value = body_of(request_, one, first_habits(one))[name]
    habits, told = learned(first_habits(one), name, value, message)
    assert told
    assert body_of(request_, one, habits).get(name) == sent
    assert body_of(Request(CHAT, stop=("x",)), one, habits)[name] == others
    assert habits.without == frozenset()


@pytest.mark.parametrize(
    ("habits", "names"),
    [
        (Habits(), []),
        (Habits(most=16384), ["max_tokens"]),
        (Habits(limit="", without=frozenset({"max_tokens", LIMIT})), ["max_tokens"]),
        (Habits(limit="max_tokens", without=frozenset({LIMIT})), []),
        (Habits(edges=frozenset({"temperature 0", "top_p 1"})), []),
        (Habits(edges=frozenset({"temperature above 1"})), ["temperature"]),
    ],
)
def test_what_of_a_sampler_cannot_be_sent_is_told(habits, names):
    assert not_honoured(habits) == names


def test_what_the_configuration_says_is_sent_or_left_out():
    params = {"temperature": "omit", "presence_penalty": 0.5, "top_p": 1, "max_tokens": 9}
    one = model(params=params, extra_body={"provider": {"order": ["x"]}})
    body = body_of(Request(CHAT), one, first_habits(one))
    assert "temperature" not in body
    assert "max_completion_tokens" not in body
    assert (body["presence_penalty"], body["top_p"], body["max_tokens"]) == (0.5, 1, 9)
    assert body["provider"] == {"order": ["x"]}
    # Nothing of it is left out again without being asked.
    assert sent_parameters(body, one) == {"seed", "system"}
    for omitted, sent in (("max_completion_tokens", "max_tokens"), ("max_tokens", None)):
        one = model(params={omitted: "omit"})
        assert (sent or "max_completion_tokens") in body_of(Request(CHAT), one, first_habits(one))
    one = model(params={"response_format": "omit"})
    request = Request(CHAT, json_schema=SCHEMA)
    assert "response_format" not in body_of(request, one, first_habits(one))


def test_a_reply_that_was_all_thought_gets_more_room():
    one = model(thinking_tokens=500)
    for thinks, most in ((False, 300), (True, 800)):
        request = Request(CHAT, 300, thinks=thinks)
        assert body_of(request, one, first_habits(one))["max_completion_tokens"] == most
    choice = Request(CHAT, choices=("1", "2"), thinks=True)
    assert body_of(choice, one, first_habits(one))["max_completion_tokens"] == 1


@pytest.mark.parametrize(
    ("settings", "sent", "for_a_choice"),
    [
        ({}, None, None),
        ({"thinking": "off"}, {"enable_thinking": False}, {"enable_thinking": False}),
        ({"thinking": "strip"}, {"enable_thinking": True}, {"enable_thinking": False}),
        ({"chat_template_kwargs": {"tone": "dry"}}, {"tone": "dry"}, {"tone": "dry"}),
        (
            {"thinking": "keep", "chat_template_kwargs": {"enable_thinking": 1, "a": "b"}},
            {"enable_thinking": 1, "a": "b"},
            {"enable_thinking": 1, "a": "b"},
        ),
    ],
)
def test_the_servers_template_is_told_what_the_configuration_says(settings, sent, for_a_choice):
    one = model(**settings)
    for request, variables in (
        (Request(CHAT), sent),
        (Request(CHAT, choices=("1", "2")), for_a_choice),
    ):
        body = body_of(request, one, first_habits(one))
        assert body.get("chat_template_kwargs") == variables
        assert "chat_template_kwargs" not in sent_parameters(body, one)
    told = speaker_settings(one)
    assert {key: told[key] for key in settings} == settings
    assert speaker_settings(model()).keys() == {"backend", "model", "base_url"}


def test_models_with_mappings_can_be_told_apart():
    assert hash(model(params={"a": 1})) == hash(model(params={"a": 1}))
    assert len({model(), model(params={"a": 1}), model(extra_body={"a": [1]})}) == 3


@pytest.mark.parametrize(
    ("top", "choices", "expected"),
    [
        ([("1", 0.6)], ("1", "2"), (0.6, 0.4)),
        ([("1", 0.3), ("x", 0.3)], ("1", "2"), (0.5, 0.5)),
        ([("1", 0.9), ("x", 0.05)], ("1", "2"), (0.9 / 0.95, 0.05 / 0.95)),
        ([(" 1", 0.5), ("1", 0.25), ("2", 0.25)], ("1", "2"), (0.75, 0.25)),
        ([("1", 0.8), ("2", 0.1)], ("1", "2", "3"), (0.8, 0.1, 0.1)),
        ([("x", 0.35), ("1", 0.3), ("2", 0.3)], ("1", "2"), (0.5, 0.5)),
        ([("\u25811", 0.6), ("\u01202", 0.4)], ("1", "2"), (0.6, 0.4)),
        ([("\uff11", 0.6), ("\uff12", 0.4)], ("1", "2"), (0.6, 0.4)),
    ],
)
def test_a_choice_that_was_not_returned_gets_no_more_than_can_be_left(top, choices, expected):
    found = choice_logprobs(tuple((token, math.log(p)) for token, p in top), choices)
    assert tuple(map(math.exp, found.values())) == pytest.approx(expected)


@pytest.mark.parametrize(
    "top",
    [
        [("I", 0.9), ("The", 0.07), ("2", 1e-3), ("1", 5e-4)],
        [("The", 0.5), ("2", 0.1)],
        [("I", 0.4), ("1", 0.3), ("2", 0.15)],
        [("I", 1.0)],
    ],
)
def test_an_answer_in_words_is_not_believed_from_its_tail(top):
    assert choice_logprobs(tuple((token, math.log(p)) for token, p in top), ("1", "2")) == {}


@given(
    st.lists(
        st.tuples(st.sampled_from(["1", " 1", "2", "3", "I", "The"]), st.floats(0.01, 1)),
        min_size=1,
        max_size=6,
        unique_by=lambda entry: entry[0],
    )
)
def test_choices_share_one_and_the_missing_stay_below_what_was_seen(entries):
    total = sum(weight for _, weight in entries) * 1.1
    top = tuple((token, math.log(weight / total)) for token, weight in entries)
    found = choice_logprobs(top, ("1", "2", "3"))
    if not found:
        return
    probabilities = {choice: math.exp(value) for choice, value in found.items()}
    assert sum(probabilities.values()) == pytest.approx(1)
    returned = {token.strip() for token, _ in top}
    seen = min(probabilities[choice] for choice in probabilities if choice in returned)
    assert all(p <= seen + 1e-9 for choice, p in probabilities.items() if choice not in returned)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://127.0.0.1:8000/v1", True),
        ("http://127.1.2.3/v1", True),
        ("http://LOCALHOST:1/v1", True),
        ("http://[::1]:1/v1", True),
        ("http://0.0.0.0:8000/v1", True),
        ("http://[::]:1/v1", True),
        ("http://127.1:1/v1", True),
        ("http://2130706433/v1", True),
        ("http://[::ffff:127.0.0.1]:1/v1", True),
        ("http://localhost.:1/v1", True),
        ("http://10.1:1/v1", False),
        ("http://[::ffff:10.0.0.1]:1/v1", False),
        ("https://api.openai.com/v1", False),
        ("http://localhost.example.com/v1", False),
        ("http://127.evil.com/v1", False),
    ],
)
def test_loopback_is_told_from_the_rest(url, expected):
    assert is_loopback(url) is expected
