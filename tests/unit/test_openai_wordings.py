"""What servers say, in their own words, and whose fault it is: the decision table of refusals."""

from __future__ import annotations

import json
from typing import Any

import pytest

from aloe.engines.openai_answers import Complained, read_answer
from aloe.engines.openai_faults import (
    Verdict,
    complaint_in,
    doubtful,
    is_spent,
    refused_parameter,
    verdict,
)

SENT = frozenset(
    {
        *("temperature", "top_p", "seed", "stop", "max_completion_tokens", "max_tokens"),
        *("logprobs", "top_logprobs", "response_format", "system"),
    }
)


def error(message: str, **more: Any) -> dict[str, Any]:
    return {"error": {"message": message, "type": "invalid_request_error", **more}}


def judged(status: int | None, body: Any) -> Verdict:
    return verdict(complaint_in(status, body), SENT)


SPENT = [
    (400, error("Budget has been exceeded! Current cost: 2, Max budget: 1", code="400")),
    (400, {"error": {"message": "ExceededBudget: over budget", "type": "budget_exceeded"}}),
    (400, error("You have reached your specified API usage limits. You will regain access on x")),
    (400, error("This organization has been disabled.")),
    (400, error("Organization has been restricted.", code="organization_restricted")),
    (400, error("Refused", code="blocked_api_access")),
    (400, {"error": {"code": "Arrearage", "message": "Access denied", "type": "Arrearage"}}),
    (412, error("Account foo is suspended, possibly due to failure to pay past invoices.")),
    (403, {"statusCode": 403, "message": "Out of call volume quota. Replenished in 02:12:23."}),
    (403, error("Key limit exceeded (total limit). Manage it using https://x", code=403)),
    (403, {"code": "no permission", "error": "Your team doesn't have any credits yet."}),
    (403, error("Your access was terminated due to violation of our policies")),
    (429, error("账户余额不足, 请充值", code="1113")),
    (None, {"choices": None, "base_resp": {"status_code": 1008, "status_msg": "余额不足"}}),
    (None, {"base_resp": {"status_code": 1008, "status_msg": "insufficient balance"}}),
    (None, {"code": 30001, "message": "Sorry, your account balance is insufficient"}),
    (None, error("Budget has been exceeded!", type="budget_exceeded")),
]


@pytest.mark.parametrize(("status", "body"), SPENT)
def test_money_and_closed_accounts_are_the_worlds(status, body):
    complaint = complaint_in(status, body)
    assert verdict(complaint, SENT) is Verdict.WORLD
    assert not doubtful(complaint, Verdict.WORLD)
    assert is_spent(f"{complaint.code} {complaint.message}")


GONE = [
    (400, error("The requested model 'x' is not supported by any provider you have enabled.")),
    (400, error("No", param="model", code="model_not_supported")),
    (400, error("No", param="model")),
    (400, error("The provided model identifier is invalid.")),
    (400, {"message": "This model version has reached the end of its life."}),
    (400, error("There is no 'model_name' with this string")),
    (400, {"error": "No models loaded. Please load a model in the developer page."}),
    (403, error("Project `p` does not have access to model `m`", code="model_not_found")),
    (400, [error("User location is not supported for the API use.")]),
    (403, error("No", code="unsupported_country_region_territory")),
    (405, "Method Not Allowed"),
    (407, "<html>Proxy Authentication Required</html>"),
    (410, error("This endpoint has been retired.")),
    (None, error("The model `x` does not exist", code="model_not_found")),
]


@pytest.mark.parametrize(("status", "body"), GONE)
def test_a_model_that_is_not_there_is_the_worlds(status, body):
    assert judged(status, body) is Verdict.WORLD
    assert not is_spent(complaint_in(status, body).message)


TOO_LONG = [
    (400, error("input length and `max_tokens` exceed context limit: 19 + 2 > 20")),
    (400, error("prompt is too long: 210000 tokens > 200000 maximum")),
    (400, [error("The input token count (1200000) exceeds the maximum number of tokens allowed")]),
    (422, {"error": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 2048."}),
    (422, {"error": "Input validation error: `inputs` must have less than 4096 tokens."}),
    (400, {"message": "Input length (9000 tokens) exceeds the maximum allowed length (8191 t)."}),
    (400, error("The prompt (length 3000) is longer than the maximum model length of 2048.")),
    (400, error("Range of input length should be [1, 30720]", code="invalid_parameter_error")),
    (500, error("Context size has been exceeded.", type="server_error")),
    (None, {"object": "error", "message": "This model's maximum context length is 8", "code": 400}),
    (None, {"detail": "prompt too long"}),
    (
        400,
        error(
            "Provider returned error",
            metadata={"raw": json.dumps(error("prompt is too long: 2 tokens > 1 maximum"))},
        ),
    ),
    (
        400,
        error(
            "Provider returned error",
            metadata={"raw": error("'max_tokens' is too large: 3. maximum context length is 2")},
        ),
    ),
]


@pytest.mark.parametrize(("status", "body"), TOO_LONG)
def test_a_context_that_is_full_is_told_from_a_limit_that_is_refused(status, body):
    assert judged(status, body) is Verdict.TOO_LONG


ITEMS = [
    (
        400,
        error(
            "Your prompt may contain text that is not allowed by our safety system.",
            code="content_policy_violation",
        ),
    ),
    (400, error("Invalid prompt: flagged as potentially violating our usage policy")),
    (400, error("Content Exists Risk")),
    (400, {"code": "data_inspection_failed", "message": "may contain inappropriate content."}),
    (
        400,
        error(
            "Failed to validate JSON. Please adjust your prompt.",
            code="json_validate_failed",
            failed_generation='{"a": ["the economic system", "cannot stop", "seed", "top_p"]}',
        ),
    ),
    (400, error("Could not finish the message because max_tokens was reached.")),
    (
        400,
        error(
            "Provider returned error",
            metadata={"raw": json.dumps(error("Rejected by our safety system."))},
        ),
    ),
    (None, {"base_resp": {"status_code": 1026, "status_msg": "input new_sensitive"}}),
]


@pytest.mark.parametrize(("status", "body"), ITEMS)
def test_a_text_that_is_refused_is_the_items_without_a_doubt(status, body):
    complaint = complaint_in(status, body)
    assert verdict(complaint, SENT) is Verdict.ITEM
    assert not doubtful(complaint, Verdict.ITEM)


ECHOED = {"type": "string_type", "msg": "Input should be a valid string"}
ECHOED |= {"loc": ["body", "messages", 1, "content", "str"], "input": "'stop' that, 'seed' is 3"}
DOUBTS = [
    (422, {"detail": [ECHOED]}, Verdict.ITEM),
    (400, error(str([ECHOED | {"loc": tuple(ECHOED["loc"])}])), Verdict.ITEM),
    (400, error("1 error\n  bad [type=x, input_value='stop: no', input_type=str]"), Verdict.ITEM),
    (400, error("We stop here, that is invalid"), Verdict.ITEM),
    (400, error("Your seed money cannot be in this system"), Verdict.ITEM),
    (400, error("Nobody has words for this"), Verdict.ITEM),
    (413, "<html>413</html>", Verdict.ITEM),
    (None, error("messages.1.content must be a string"), Verdict.ITEM),
    (403, "<html>403 Forbidden. Request blocked: safety policy</html>", Verdict.KEY),
    (403, {"message": "Forbidden"}, Verdict.KEY),
    (405, "<html>Not allowed</html>", Verdict.WORLD),
]


@pytest.mark.parametrize(("status", "body", "expected"), DOUBTS)
def test_what_nobody_has_words_for_takes_a_second_call(status, body, expected):
    complaint = complaint_in(status, body)
    assert verdict(complaint, SENT) is expected
    assert doubtful(complaint, expected)


KEYS = [
    (401, error("Missing scopes: api.model.read.")),
    (403, error("Your API key has no access")),
    (403, {"error": "Invalid credentials"}),
    (None, {"detail": "Invalid API key"}),
    (None, {"base_resp": {"status_code": 1004, "status_msg": "login fail: carry the api key"}}),
    (None, {"success": False, "errors": [{"code": 10000, "message": "Authentication error"}]}),
]


@pytest.mark.parametrize(("status", "body"), KEYS)
def test_a_key_that_is_named_is_no_doubt(status, body):
    complaint = complaint_in(status, body)
    assert verdict(complaint, SENT) is Verdict.KEY
    assert not doubtful(complaint, Verdict.KEY)


AGAIN = [
    (400, {"error": "Model unloaded."}),
    (400, {"error": "The model has crashed without additional information. (Exit code: 1)"}),
    (499, {"error": "client closed request"}),
    (500, error("The seed must be sown")),
    (None, {"code": 50505, "message": "Model service overloaded. Please try again later."}),
    (None, {"base_resp": {"status_code": 1002, "status_msg": "rate limit"}}),
]


@pytest.mark.parametrize(("status", "body"), AGAIN)
def test_what_may_pass_is_tried_again(status, body):
    assert judged(status, body) is Verdict.AGAIN


PARAMETERS = [
    (403, error("You are not allowed to request logprobs from this model."), "logprobs"),
    (400, error("Model grok-4 does not support parameter stop."), "stop"),
    (422, {"error": "Input validation error: `temperature` must be strictly positive"}, None),
    (422, "Failed to deserialize the JSON body: stop: invalid type: string", "stop"),
    (422, {"detail": [{"loc": ["body", "top_p"], "msg": "ensure this value is < 1"}]}, "top_p"),
    (400, error("[{'type': 'x', 'loc': ('body', 'seed'), 'msg': 'too large'}]"), "seed"),
    (400, error("1 validation error\nseed\n  Extra inputs are not permitted [type=x]"), "seed"),
    (400, error("invalid temperature: only 1 is allowed"), "temperature"),
    (400, error("`temperature` and `top_p` cannot both be specified for this model."), "top_p"),
    (400, error("Failed to initialize samplers: failed to parse grammar"), "response_format"),
    (500, error("System role not supported at row 1, column 74", code=500), "system"),
    (500, error("Conversation roles must alternate user/assistant/user/assistant"), "system"),
    (
        400,
        error("'messages[0].role' does not support 'system'", param="messages[0].role"),
        "system",
    ),
    (400, error("Unexpected role 'system' after role 'user'"), "system"),
    (501, error("This server does not support logprobs", code=501), "logprobs"),
    (None, error("'seed' is not supported", code="unsupported_parameter", param="seed"), "seed"),
    (None, error("Unsupported parameter: 'seed' is not supported"), "seed"),
    (
        400,
        error(
            "Provider returned error",
            metadata={"raw": json.dumps(error("Unsupported parameter: 'seed' is no good"))},
        ),
        "seed",
    ),
]


@pytest.mark.parametrize(("status", "body", "name"), PARAMETERS)
def test_a_refused_parameter_is_found_whatever_the_status(status, body, name):
    complaint = complaint_in(status, body)
    assert verdict(complaint, SENT) is Verdict.PARAMETER
    assert refused_parameter(complaint, SENT) == (name or "temperature")


def test_a_template_that_fails_without_a_system_message_is_not_tried_again():
    complaint = complaint_in(500, error("Conversation roles must alternate"))
    assert verdict(complaint, SENT - {"system"}) is Verdict.ITEM
    assert doubtful(complaint, Verdict.ITEM)


@pytest.mark.parametrize(
    "body",
    [
        {"choices": None, "base_resp": {"status_code": 1008, "status_msg": "insufficient balance"}},
        {"code": 30001, "message": "no", "data": None},
        {"object": "error", "message": "no", "type": "BadRequestError", "code": 400},
        {"detail": "Invalid API key"},
        {"success": False, "errors": [{"code": 1, "message": "quota"}]},
        {"error_code": 336003, "error_msg": "no"},
        {"fault": {"faultstring": "no", "detail": {"errorcode": "x"}}},
        {"error": [{"message": "insufficient_quota"}]},
    ],
)
def test_an_error_needs_no_key_of_that_name(body):
    with pytest.raises(Complained) as complained:
        read_answer(json.dumps(body).encode())
    assert str(complained.value)
