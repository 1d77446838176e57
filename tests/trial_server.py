"""A chat completions server with one habit of real ones: `TrialServer(MODE)`.

`HABITS` tells what each mode does. In all of them the server means the same: `REPLY` where somebody
talks, `NOTE` where JSON is asked for, and the first choice where a judge is asked.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

REPLY = "I like to keep it simple. What do you enjoy?"
NOTE = {"profile": ["keeps bees"], "personality": []}
MODEL = "trial"
LISTED = [MODEL, "other"]
AFTER = 60
"""Completions after which the modes break that break in the middle of a run."""

HABITS = {
    "ok": "answers well",
    "list-content": "the message is a list of parts",
    "reasoning-field": "thoughts are in a field of their own",
    "think": "thoughts stand before the message, in a block",
    "think-line": "as `think`, behind an empty line, and with a second thought that is cut",
    "think-open": "as `think`, but the template has opened the block",
    "surrogate": "half a surrogate pair and NUL in the text",
    "fence": "JSON stands in a fence, after some words",
    "null-usage": "counts of tokens are null",
    "no-usage": "there are no counts of tokens",
    "error-200": "two of three answers are an error of the provider, with status 200",
    "html-200": "some answers are a web page, with status 200",
    "empty-choices": "some answers have no choice",
    "null-message": "some answers have a choice without message",
    "refusal": "some answers are a refusal",
    "content-filter": "some answers are stopped by a filter",
    "truncated": "some messages are ended by the limit of tokens",
    "busy": "every other call is refused with 429 and Retry-After",
    "broken": "every third call ends with 502",
    "dropped": "every third connection is closed",
    "temperature-1": "the temperature cannot be chosen",
    "no-seed": "a seed is refused with 422, in the words of a validator",
    "no-stop": "stop is refused",
    "max-tokens-name": "knows max_tokens only",
    "json-object-only": "knows no JSON schema",
    "no-json": "knows no response format",
    "top5": "gives 5 log-probs at most",
    "no-logprobs": "ignores that log-probs are asked for",
    "logprobs-refused": "refuses log-probs",
    "chatty-judge": "a judge answers in a sentence, unless it is told the choices",
    "stubborn-judge": "a judge answers in a sentence, whatever it is told",
    "no-system": "refuses a system message",
    "no-models": "has no list of models",
    "models-refused": "does not show the list of models to this key",
    "broken-off": "some messages end in mid-sentence, as the server ran out of room",
    "byte-order-mark": "every answer begins with one",
    "no-edges": "takes no temperature of 0, no top_p of 1, no limit below 16 or above 50 tokens",
    "logprobs-403": "does not allow log-probs to this key",
    "no-system-500": "fails on a system message, as the template does",
    "tail-judge": "a judge answers in a sentence; the choices are far down the list of log-probs",
    "unloaded": "some calls find the model unloaded, with 400",
    "strict": "refuses all of the above that can be refused, one by one",
    "quota": "the quota is exhausted in mid-run",
    "budget": "a gateway's budget is spent in mid-run, with 400",
    "untold": "everything is refused from mid-run on, with 400 and words that nobody knows",
    "base-resp": "the balance is spent in mid-run, told with status 200 and no `error`",
    "retired": "the route is gone in mid-run (410)",
    "revoked": "the key is revoked in mid-run",
    "gone": "the model is taken away in mid-run",
    "dead": "only 503 from mid-run on",
    "unknown-model": "has no such model",
    "wrong-key": "does not know the key",
    "always-html": "is no chat server",
    "never-json": "a note is never JSON",
}
"""What real servers, gateways and models were reported to do, by mode."""

Answer = tuple[int, dict[str, str], Any]


class TrialServer:
    """Serves on loopback while `running`; the mode may change meanwhile."""

    def __init__(self, mode: str) -> None:
        assert mode in HABITS
        self.mode, self.count = mode, 0
        self.bodies, self.times = list[dict[str, Any]](), list[float]()
        self._lock = threading.Lock()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.url = f"http://127.0.0.1:{self._http.server_port}/v1"

    @contextmanager
    def running(self) -> Iterator[TrialServer]:
        thread = threading.Thread(target=self._http.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield self
        finally:
            self._http.shutdown()
            thread.join()
            self._http.server_close()

    def answer(self, body: dict[str, Any]) -> Answer | None:
        with self._lock:
            self.count += 1
            number = self.count
            self.bodies.append(body)
            self.times.append(time.monotonic())
        return refused(self.mode, number, body) or _answered(self.mode, number, body)


def refused(mode: str, number: int, body: dict[str, Any]) -> Answer | None:
    """What a request is refused with, if it is."""
    strict = mode == "strict"
    late = number > AFTER
    judge = "logprobs" in body
    form = body.get("response_format", {}).get("type")
    if (mode == "temperature-1" or strict) and body.get("temperature", 1) != 1:
        return _unsupported("temperature", "does not support this value, only the default (1) is")
    if (mode == "no-seed" or strict) and "seed" in body:
        place = {"type": "extra_forbidden", "loc": ["body", "seed"], "input": body["seed"]}
        return 422, {}, {"detail": [place | {"msg": "Extra inputs are not permitted"}]}
    if (mode == "no-stop" or strict) and "stop" in body:
        return _error(400, "Unsupported parameter: 'stop' is not supported with this model.")
    if (mode == "max-tokens-name" or strict) and "max_completion_tokens" in body:
        return _error(400, "Unrecognized request argument supplied: max_completion_tokens")
    if mode == "json-object-only" and form == "json_schema":
        return _error(400, "This response_format type is unavailable now")
    if (mode == "no-json" or strict) and form:
        return _error(400, f"'{form}' is not supported by this model", param="response_format")
    if mode == "top5" and body.get("top_logprobs", 0) > 5:
        return _error(400, "top_logprobs must be less than or equal to 5")
    if (mode == "logprobs-refused" or strict) and judge:
        return _unsupported("logprobs", "is not supported with this model")
    if (mode == "no-system" or strict) and body["messages"][0]["role"] == "system":
        return _error(400, "System role not supported")
    if mode == "busy" and number % 2:
        return 429, {"retry-after": "0.05"}, {"error": {"message": "slow down", "code": "rate"}}
    if mode == "broken" and number % 3 == 0:
        return 502, {}, b"<html>bad gateway</html>"
    if mode == "quota" and late:
        return _error(429, "You exceeded your current quota", code="insufficient_quota")
    if mode == "wrong-key" or (mode == "revoked" and late):
        return _error(401, "Incorrect API key provided", code="invalid_api_key")
    if mode == "unknown-model" or (mode == "gone" and late):
        return _error(404, f"The model `{body['model']}` does not exist", code="model_not_found")
    if mode == "budget" and late:
        return _error(400, "Budget has been exceeded! Max budget: 1", type="budget_exceeded")
    if mode == "untold" and late:
        return _error(400, "Computer says no")
    if mode == "base-resp" and late:
        status = {"status_code": 1008, "status_msg": "insufficient balance"}
        return 200, {}, {"choices": None, "base_resp": status}
    if mode == "retired" and late:
        return _error(410, "This endpoint has been retired")
    if mode == "logprobs-403" and judge:
        return _error(403, "You are not allowed to request logprobs from this model")
    if mode == "no-system-500" and body["messages"][0]["role"] == "system":
        return _error(500, "Conversation roles must alternate user/assistant/...", code=500)
    if mode == "unloaded" and number % 5 == 0:
        return 400, {}, {"error": "Model unloaded."}
    if mode == "no-edges":
        return _edge(body)
    if mode == "dead" and late:
        return 503, {}, b"upstream connect error"
    return None


def _edge(body: dict[str, Any]) -> Answer | None:
    limit = body.get("max_completion_tokens", 50)
    if limit < 16:
        return _error(
            400, f"Expected a value >= 16, but got {limit}", param="max_completion_tokens"
        )
    if limit > 50:
        told = f"max_completion_tokens is too large: {limit}. This model supports at most 50 tokens"
        return _error(400, told)
    if body.get("temperature") == 0:
        return 422, {}, {"error": "Input validation error: `temperature` must be strictly positive"}
    if body.get("top_p") == 1:
        return 422, {}, {"error": "Input validation error: `top_p` must be > 0.0 and < 1.0"}
    return None


def _unsupported(name: str, words: str) -> Answer:
    return _error(400, f"Unsupported value: '{name}' {words}", code="unsupported", param=name)


def _error(status: int, message: str, **more: Any) -> Answer:
    return status, {}, {"error": {"message": message, **more}}


def _answered(mode: str, number: int, body: dict[str, Any]) -> Answer | None:
    """A completion, or what the server sends with status 200 instead; None closes the connection.

    What is asked for is read from the prompt: a server that takes no parameter has nothing else.
    """
    asked = body["messages"][-1]["content"]
    judge, noted = "Answer with" in asked, "as JSON" in asked
    told = "nothing else" in asked
    some, few = number % 3 == 0, number % 5 == 0
    text = json.dumps(NOTE) if noted else "1" if judge else REPLY
    first = text.split()[0]
    match mode:
        case "list-content":
            half = len(text) // 2
            parts = [{"type": "text", "text": text[:half]}, {"type": "text", "text": text[half:]}]
            return _completion(parts, _logprobs(body, first))
        case "reasoning-field" if not judge:
            return _completion(text, reasoning_content="They want a chat.")
        case "think" if not judge:
            text = f"<think>\nThey want a chat.\n</think>\n\n{text}"
        case "think-line" if not judge:
            text = f"\n<think>\nA chat?\n</think>\n\n{text}\n<think>\nThey may"
        case "think-open" if not judge:
            text = f"They want a chat.\n</think>\n\n{text}"
        case "surrogate" if not judge and not noted:
            text = f"{text} \ud83d\x00"
        case "fence" if noted:
            text = f"Here are my notes:\n```json\n{text}\n```\nI hope {{they}} help!"
        case "never-json" if noted:
            text = "They keep bees."
        case "null-usage":
            usage = dict.fromkeys(("prompt_tokens", "completion_tokens", "total_tokens"))
            return _completion(text, _logprobs(body, first), usage=usage)
        case "no-usage":
            return _completion(text, _logprobs(body, first), usage="none")
        case "error-200" if not some:
            return 200, {}, {"choices": None, "error": {"message": "Provider error", "code": 429}}
        case "html-200" if some:
            return 200, {}, b"<html><body>busy</body></html>"
        case "always-html":
            return 200, {}, b"<html><body>Welcome</body></html>"
        case "empty-choices" if some:
            return 200, {}, _body([])
        case "null-message" if some:
            return 200, {}, _body([{"index": 0, "message": None, "finish_reason": "stop"}])
        case "refusal" if few and not judge:
            return _completion(None, refusal="I cannot help with that.")
        case "content-filter" if few and not judge:
            return _completion("I like", finish="content_filter")
        case "truncated" if some and not judge and not noted:
            return _completion(text.removesuffix(" you enjoy?"), finish="length")
        case "broken-off" if some and not judge:
            return _completion("I like to kee", finish="insufficient_system_resource")
        case "byte-order-mark":
            answer = json.dumps(_completion(text, _logprobs(body, first))[2])
            return 200, {}, b"\xef\xbb\xbf" + answer.encode()
        case "tail-judge" if judge and "logprobs" in body:
            return _completion("I would say 1.", _logprobs(body, "I", [("2", -7.0), ("1", -7.5)]))
        case "dropped" if some:
            return None
        case "no-logprobs" | "strict":
            return _completion(text)
        case "stubborn-judge" if judge:
            return _completion("I would say 1.", _logprobs(body, "I"))
        case "chatty-judge" if judge and not told:
            return _completion("I would say 1.", _logprobs(body, "I"))
    return _completion(text, _logprobs(body, first))


def _logprobs(body: dict[str, Any], first: str, tail: list[tuple[str, float]] | None = None) -> Any:
    if not body.get("logprobs"):
        return None
    top = [(first, -0.2), ("2", -1.7), ("3", -4.0), ("4", -4.0), ("5", -4.0)]
    if first == "I":
        top = [("I", -0.1), ("The", -2.5), *(tail or [])]
    entries = [{"token": token, "logprob": value, "bytes": None} for token, value in top]
    return {"content": [{**entries[0], "top_logprobs": entries}]}


def _completion(
    text: Any, logprobs: Any = None, finish: str = "stop", usage: Any = None, **message: Any
) -> Answer:
    said = {"role": "assistant", "content": text, **message}
    choice = {"index": 0, "message": said, "finish_reason": finish, "logprobs": logprobs}
    return 200, {}, _body([choice], usage)


def _body(choices: list[Any], usage: Any = None) -> dict[str, Any]:
    body = {"id": "x", "object": "chat.completion", "created": 0, "choices": choices}
    if usage == "none":
        return body
    counts = {"prompt_tokens": 50, "completion_tokens": 10, "total_tokens": 60}
    return body | {"model": MODEL, "usage": usage or counts}


def _handler(server: TrialServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            if server.mode == "models-refused":
                self._send(403, {}, {"error": {"message": "Missing scopes: api.model.read"}})
            elif server.mode == "no-models":
                self._send(404, {}, {"error": {"message": "no such route"}})
            else:
                self._send(200, {}, {"object": "list", "data": [{"id": name} for name in LISTED]})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            answer = server.answer(body)
            if answer is None:
                self.close_connection = True
            else:
                self._send(*answer)

        def _send(self, status: int, headers: dict[str, str], body: Any) -> None:
            raw = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(raw)))
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, format: str, *args: Any) -> None:
            return None

    return Handler
