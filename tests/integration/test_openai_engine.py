"""The `openai` backend: a server that can be busy, broken or slow, and vLLM's own server."""

from __future__ import annotations

import asyncio
import json
import time
import traceback
from collections.abc import Iterator
from dataclasses import replace
from email.utils import formatdate

import pyarrow as pa
import pytest
from chat_server import ChatServer, Post, Reply, usage
from vllm_server import vllm_server

from aloe.config import DialogueConfig, OpenAIModel, Price, Sampling, ScriptedModel
from aloe.dialogue.tree import TreeSeed, grow_tree
from aloe.engines import Completion, Request
from aloe.engines.openai import OpenAIEngine, check_server, list_models
from aloe.engines.price import cost_usd
from aloe.engines.scripted import ScriptedEngine
from aloe.errors import CallFailed, EngineError, MalformedAnswer, WorldFault
from aloe.roles import Persona, prefer
from aloe.roles.asking import ask
from aloe.roles.speak import INDUCTION_SCHEMA
from aloe.schema import NODES
from aloe.storage.manifest import Usage

ROLES = ("user", "inducer", "guided", "unguided", "judge")
BEEKEEPER = Persona("p", "Keeps bees.", "Dry.")
CHAT = [
    {"role": "system", "content": "A long system prompt that fills a block. " * 8},
    {"role": "user", "content": "Tell me about your day."},
]
OK = Reply()
FILTERED = json.dumps({"error": {"message": "flagged by our content filter"}})
QUOTA = {"message": "You exceeded your quota", "code": "insufficient_quota"}


def model_at(server: ChatServer, **settings) -> OpenAIModel:
    return OpenAIModel(backend="openai", model="echo", base_url=server.url, **settings)


def chat(text: str) -> Request:
    return Request([{"role": "user", "content": text}])


def say(server: ChatServer, *texts: str, **settings) -> list[Completion | BaseException]:
    """What one engine gets for all texts at once."""

    async def talk():
        engine = OpenAIEngine("remote", model_at(server, **settings))
        calls = (engine.complete(chat(text)) for text in texts)
        return await asyncio.gather(*calls, return_exceptions=True)

    return asyncio.run(talk())


def fail(server: ChatServer, kind: type[Exception] = WorldFault, **settings) -> Exception:
    """The error of a single call."""
    [error] = say(server, "hello", **settings)
    assert isinstance(error, kind), error
    return error


def test_calls_in_flight_fall_while_the_server_is_busy_and_grow_again():
    refusals, most = 24, 8
    texts = [f"text {n}" for n in range(400)]

    def script(post: Post) -> Reply:
        status = 200 if post.number > refusals else 429 if post.number % 2 else 503
        # Slow at the end, such that even a busy machine has all calls inside at the same time.
        return Reply(status, seconds=0.05 if post.number < len(texts) - 24 else 1)

    with ChatServer(script).running() as server:
        answers = say(server, *texts, max_concurrency=most)
    assert [answer.text for answer in answers] == texts
    assert len(server.posts) == len(texts) + refusals
    inside = [post.inside for post in server.posts]
    assert max(inside) == most
    # The limit is halved once per round trip: 8, 4 and 2 calls at most, then one by one.
    assert max(inside[most:refusals]) <= most // 2
    assert max(inside[8 + 4 + 2 : refusals]) == 1
    assert max(inside[refusals : refusals + 3]) <= 2
    assert max(inside[refusals:]) == most


def test_a_server_with_room_for_few_calls_is_not_asked_for_many():
    room = 3

    def script(post: Post) -> Reply:
        return Reply(429 if post.inside > room else 200, seconds=0.02)

    texts = [f"text {n}" for n in range(120)]
    with ChatServer(script).running() as server:
        answers = say(server, *texts, max_concurrency=32)
    assert [answer.text for answer in answers] == texts
    late = server.posts[len(server.posts) // 2 :]
    assert max(post.inside for post in late) <= 2 * room
    # A refusal now and then is how it is found out whether there is more room by now.
    assert sum(post.inside > room for post in late) < len(late) / 3


@pytest.mark.parametrize("date", [False, True], ids=["seconds", "date"])
def test_a_call_comes_back_no_sooner_than_the_server_asks(date):
    def script(post: Post) -> Reply:
        asked = formatdate(time.time() + 2, usegmt=True) if date else "1"
        return Reply(429, {"retry-after": asked}) if post.attempt == 1 else OK

    with ChatServer(script).running() as server:
        [answer] = say(server, "hello")
    first, second = server.posts
    assert answer.text == "hello"
    assert 1 <= second.at - first.at < 4
    assert answer.seconds >= 1


@pytest.mark.parametrize(
    "trouble",
    [
        Reply(429),
        Reply(500),
        Reply(502, body="<html>bad gateway</html>"),
        Reply(body="<html>busy</html>"),
        Reply(body='{"error": {"message": "Provider returned error", "code": 429}}'),
        Reply(body='{"choices": []}'),
        Reply(503),
        Reply(drop=True),
        Reply(seconds=0.8),
        Reply(seconds=0.8, drip=True),
    ],
    ids=["429", "500", "502", "html", "error", "empty", "503", "drop", "slow", "drip"],
)
def test_trouble_that_passes_costs_attempts_but_no_answer(trouble):
    with ChatServer(lambda post: trouble if post.attempt <= 2 else OK).running() as server:
        answers = say(server, "one", "two", timeout_s=0.3)
    assert [answer.text for answer in answers] == ["one", "two"]
    assert len(server.posts) == 6


@pytest.mark.parametrize(
    ("reply", "kind", "cause"),
    [
        (Reply(404), WorldFault, "NotFoundError"),
        (Reply(400, body=FILTERED), EngineError, "BadRequestError"),
        (Reply(429, body=json.dumps({"error": QUOTA})), WorldFault, "You exceeded your quota"),
        (Reply(body=json.dumps({"error": QUOTA})), WorldFault, "You exceeded your quota"),
    ],
    ids=["404", "filter", "quota", "quota with status 200"],
)
def test_what_waiting_does_not_mend_is_not_sent_again(reply, kind, cause):
    with ChatServer(lambda post: reply).running() as server:
        error = fail(server, kind)
    assert cause in str(error)
    assert not getattr(error, "passes", False)
    assert len(server.posts) == 1


def test_a_server_that_goes_on_behind_a_text_to_stop_at_is_cut_there_and_that_is_told():
    ends = {"One. ### Two.": "stop_text", "One.": "stop", "One, ###": "stop_text"}

    async def talk(server: ChatServer, text: str):
        engine = OpenAIEngine("remote", model_at(server))
        return await engine.complete(replace(chat(text), stop=("###", "+++")))

    with ChatServer(lambda post: OK).running() as server:
        for text, end in ends.items():
            found = asyncio.run(talk(server, text))
            assert (found.text, found.finish_reason) == (text.partition("###")[0], end)


def test_a_refusal_that_holds_no_characters_can_be_written_down():
    body = json.dumps({"error": {"message": "bad \ud83d \x00", "code": "bad_\udc00"}})
    for reply in (Reply(400, body=body), Reply(400, body="bad \x00"), Reply(200, body=body)):
        with ChatServer(lambda post, reply=reply: reply).running() as server:
            told = str(fail(server, Exception, deadline_s=0.1))
        assert pa.array([told]).to_pylist() == [told] and "\x00" not in told


UNTOLD = {
    "400": Reply(400),
    "413": Reply(413),
    "422": Reply(422, body='{"error": {"message": "seldom heard"}}'),
    "403 page": Reply(403, body="<html>blocked</html>"),
    "405": Reply(405),
    "200": Reply(body='{"error": {"message": "odd", "type": "invalid_request_error"}}'),
}


@pytest.mark.parametrize("reply", UNTOLD.values(), ids=UNTOLD)
def test_a_refusal_without_known_words_is_the_worlds_where_a_greeting_is_refused_too(reply):
    with ChatServer(lambda post: reply).running() as server:
        error = fail(server, WorldFault)
    assert not error.passes
    assert [post.text for post in server.posts] == ["hello", "Hello"]


@pytest.mark.parametrize("reply", UNTOLD.values(), ids=UNTOLD)
def test_and_the_calls_own_where_a_greeting_is_answered(reply):
    with ChatServer(lambda post: OK if post.text == "Hello" else reply).running() as server:
        error = fail(server, EngineError)
    assert "refuses the key" not in str(error)
    assert [post.text for post in server.posts] == ["hello", "Hello"]


def test_calls_in_doubt_share_a_greeting_and_wait_where_it_tells_nothing():
    def script(post: Post) -> Reply:
        if post.text == "Hello":
            return Reply(200 if post.attempt > 1 else 503, seconds=0.2)
        return Reply(400)

    texts = [f"text {n}" for n in range(16)]
    with ChatServer(script).running() as server:
        errors = say(server, *texts, max_concurrency=16)
    assert {type(error) for error in errors} == {EngineError}
    assert sum(post.text == "Hello" for post in server.posts) < len(texts)


def test_a_look_hears_that_nobody_is_answered():
    async def look(server: ChatServer):
        await OpenAIEngine("remote", model_at(server)).look()

    with ChatServer(lambda post: Reply(400)).running() as server, pytest.raises(WorldFault) as end:
        asyncio.run(look(server))
    assert not end.value.passes


@pytest.mark.parametrize(
    "reply",
    [
        Reply(401),
        Reply(403),
        Reply(404),
        Reply(500),
        Reply(body="<html>"),
        Reply(body='{"data": null}'),
        Reply(seconds=1),
        Reply(drop=True),
    ],
)
def test_a_list_of_models_decides_nothing_but_whether_somebody_is_there(reply, monkeypatch):
    monkeypatch.setattr("aloe.engines.openai._LISTED_WITHIN_S", 0.3)
    with ChatServer(lambda post: OK, models=reply).running() as server:
        assert list_models(model_at(server)) == []
        check_server(model_at(server))
    with pytest.raises(WorldFault, match="cannot be reached"):
        check_server(model_at(server))


def test_tokens_that_a_server_does_not_count_are_estimated_and_it_is_said_once(capsys):
    text = "x" * 400
    body = json.dumps({"choices": [{"message": {"content": text}, "finish_reason": "stop"}]})

    async def talk(server: ChatServer, **settings):
        price = Price(prompt=1, completion=1)
        engine = OpenAIEngine("remote", model_at(server, price=price, **settings))
        asked = Request([{"role": "user", "content": text}], max_tokens=100)
        return await asyncio.gather(*(engine.complete(asked) for _ in range(6)))

    with ChatServer(lambda post: Reply(body=body)).running() as server:
        found = asyncio.run(talk(server))
        assert {(c.prompt_tokens, c.completion_tokens) for c in found} == {(100, 100)}
        assert found[0].cost_usd == pytest.approx(200 / 1e6)
        assert capsys.readouterr().err.count("does not tell how many tokens") == 1
        before = time.monotonic()
        asyncio.run(talk(server, tokens_per_minute=60_000))  # 200 ms each
    assert time.monotonic() - before > 0.9


def test_a_call_that_brings_no_message_is_given_up_and_not_the_server():
    empty = Reply(body='{"choices": []}')

    def script(post: Post) -> Reply:
        return empty if post.text == "hello" else OK

    with ChatServer(script).running() as server:
        error = fail(server, MalformedAnswer)
        assert len(server.posts) == 5
        [answer] = say(server, "other")
    assert "no choice" in str(error)
    assert answer.text == "other"


def test_a_call_that_breaks_the_server_while_others_are_answered_is_its_own_fault():
    async def talk(server: ChatServer):
        engine = OpenAIEngine("remote", model_at(server, deadline_s=2))
        poison = asyncio.create_task(engine.complete(chat("poison")))
        while not poison.done():
            await engine.complete(chat("other"))
            await asyncio.sleep(0.05)
        return poison.exception()

    def script(post: Post) -> Reply:
        return Reply(500) if post.text == "poison" else OK

    with ChatServer(script).running() as server:
        error = asyncio.run(talk(server))
    assert type(error) is EngineError
    assert "deadline_s 2" in str(error)


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_is_named_and_not_printed(status, monkeypatch):
    monkeypatch.setenv("ALOE_TEST_KEY", "sk-secret")
    reply = Reply(status, body='{"error": {"message": "incorrect key sk-secret"}}')
    with ChatServer(lambda post: reply).running() as server:
        error = fail(server, api_key_env="ALOE_TEST_KEY")
    assert str(error) == f"remote: {server.url} refuses the key in ALOE_TEST_KEY"
    assert "sk-secret" not in "".join(traceback.format_exception(error))
    assert [post.key for post in server.posts] == ["Bearer sk-secret"]


@pytest.mark.parametrize(
    ("reply", "cause"),
    [
        (Reply(429), "RateLimitError"),
        (Reply(500), "InternalServerError"),
        (Reply(drop=True), "APIConnectionError"),
        (Reply(seconds=0.3), "no answer within timeout_s 0.1"),
        (Reply(body="<html>"), "no JSON in the answer"),
    ],
    ids=["429", "500", "drop", "slow", "html"],
)
def test_the_deadline_ends_a_call_that_never_succeeds(reply, cause):
    start = time.monotonic()
    with ChatServer(lambda post: reply).running() as server:
        error = fail(server, deadline_s=1.0, timeout_s=0.1)
        assert time.monotonic() - start < 5
    assert error.passes
    assert "remote: given up after" in str(error)
    assert f"(deadline_s 1); last cause: {cause}" in str(error)
    assert len(server.posts) > 1
    assert server.posts[-1].at - server.posts[0].at < 1


def test_a_wait_beyond_the_deadline_is_not_begun():
    start = time.monotonic()
    with ChatServer(lambda post: Reply(429, {"retry-after": "3600"})).running() as server:
        error = fail(server, deadline_s=60)
    assert time.monotonic() - start < 5
    assert error.passes
    assert "RateLimitError" in str(error)


def test_time_in_the_queue_does_not_count_against_the_deadline():
    texts = [f"text {n}" for n in range(10)]
    with ChatServer(lambda post: Reply(seconds=0.1)).running() as server:
        answers = say(server, *texts, max_concurrency=1, deadline_s=0.3)
    assert [answer.text for answer in answers] == texts


def test_costs_add_up_from_the_call_to_the_manifest():
    price = Price(prompt=2.5, cached=0.25, completion=10)
    texts = ["a", "bb", "cccc"]

    async def talk(server: ChatServer):
        engine = OpenAIEngine("remote", model_at(server, price=price))
        asked = (
            ask(engine, "user", chat(text), lambda answer: answer.text, tries=1, seed=0)
            for text in texts
        )
        return await asyncio.gather(*asked)

    # A refused attempt costs nothing.
    with ChatServer(lambda post: OK if post.attempt == 2 else Reply(429)).running() as server:
        answers = asyncio.run(talk(server))
    assert [answer.value for answer in answers] == texts
    total = Usage.of_calls(answer.call for answer in answers)
    spent = [usage(text) for text in texts]
    prompt, cached, completion = (sum(use[key] for use in spent) for key in spent[0])
    assert (total.prompt_tokens, total.cached_tokens, total.completion_tokens) == (307, 7, 21)
    assert (prompt, cached, completion) == (307, 7, 21)
    assert total.cost_usd == pytest.approx((300 * 2.5 + 7 * 0.25 + 21 * 10) / 1e6, rel=1e-12)
    assert total.reusable_tokens == 0


def test_answers_that_are_thrown_away_are_paid_for():
    async def judge(server: ChatServer):
        engine = OpenAIEngine("remote", model_at(server, price=Price(completion=1)))
        await prefer(engine, BEEKEEPER, [], "Hi.", "Hello.", tries=2, seed=0)

    # This server sends no log-probs.
    with ChatServer(lambda post: OK).running() as server, pytest.raises(CallFailed) as failed:
        asyncio.run(judge(server))
    made = usage(server.posts[0].text)["completion_tokens"]
    assert failed.value.call["completion_tokens"] == 2 * made > 0
    assert failed.value.call["cost_usd"] == pytest.approx(2 * made / 1e6, rel=1e-12)


def test_the_load_is_what_is_in_flight_and_what_waits():
    async def look(server: ChatServer):
        engine = OpenAIEngine("remote", model_at(server, max_concurrency=2))
        calls = asyncio.gather(*(engine.complete(chat(f"text {n}")) for n in range(5)))
        await asyncio.sleep(0.1)
        during = engine.load()
        await calls
        return during, engine.load()

    with ChatServer(lambda post: Reply(seconds=0.3)).running() as server:
        during, after = asyncio.run(look(server))
    assert (during.running, during.waiting, during.capacity) == (2, 3, 2)
    assert (after.running, after.waiting, after.capacity) == (0, 0, 2)


@pytest.fixture(scope="module")
def remote(tmp_path_factory) -> Iterator[OpenAIModel]:
    """vLLM's OpenAI server with a model that knows digits, as a judge must."""
    with vllm_server("embedded://smollm2-135m", tmp_path_factory.mktemp("serve")) as url:
        price = Price(prompt=2, cached=0.5, completion=8)
        yield OpenAIModel(backend="openai", model="smollm2-135m", base_url=url, price=price)


def test_vllms_server_answers_like_the_engine(remote):
    check_server(remote)

    async def talk():
        engine = OpenAIEngine("remote", remote)
        return await asyncio.gather(
            engine.complete(Request(CHAT, max_tokens=6, seed=1)),
            engine.complete(Request(CHAT, max_tokens=6, seed=1)),
            engine.complete(Request(CHAT, max_tokens=60, json_schema=INDUCTION_SCHEMA)),
        )

    first, again, structured = asyncio.run(talk())
    assert first.text == again.text
    assert first.prompt_tokens > 50
    assert first.completion_tokens == 6
    assert structured.text.lstrip().startswith("{")


def test_choices_that_are_not_among_the_likeliest_answers_get_no_probabilities(remote):
    async def judge():
        return await OpenAIEngine("remote", remote).complete(Request(CHAT, choices=("1", "2")))

    # Nobody answers a question about the day with a digit: that is said, not guessed.
    answer = asyncio.run(judge())
    assert answer.choice_logprobs == {}
    assert answer.completion_tokens == 1
    assert answer.cost_usd > 0


def test_a_whole_tree_is_rolled_out_through_vllms_server(remote):
    config = DialogueConfig(
        turns=2, tries=8, induction_max_tokens=100, sampling=Sampling(max_tokens=24)
    )
    start = TreeSeed("t", BEEKEEPER, "train", 0, "f")

    async def grow():
        engine = OpenAIEngine("remote", remote)
        # This model answers no question with a digit, which is all that a judge may say.
        judge = ScriptedEngine("script", ScriptedModel(backend="scripted"))
        engines = dict.fromkeys(ROLES, engine) | {"judge": judge}
        return await grow_tree(start, engines, config)

    rows = asyncio.run(grow()).rows
    assert pa.Table.from_pylist(rows, schema=NODES).num_rows == len(rows) == 6
    assert [row["role"] for row in rows] == ["user", "guided", "unguided"] * 2
    assert all(row["text"] for row in rows)
    calls = [call for row in rows for call in row["calls"] if call["model"] == "remote"]
    assert len(calls) == 2 * 4
    for call in calls:
        assert min(call["prompt_tokens"], call["completion_tokens"], call["cost_usd"]) > 0
    total = Usage.of_calls(calls)
    # Each reply goes on from a history that the server has read before.
    assert 0 < total.cached_tokens < total.prompt_tokens
    tokens = total.prompt_tokens, total.cached_tokens, total.completion_tokens
    assert total.cost_usd == pytest.approx(cost_usd(remote.price, *tokens), rel=1e-9)
