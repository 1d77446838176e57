"""A small chat completions server over HTTP that can be busy, broken, slow or dear."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Post:
    """A request as the server saw it."""

    text: str
    """The last message."""
    number: int
    """1 for the first request of all."""
    attempt: int
    """1 for the first request with this text."""
    inside: int
    """Requests being answered, this one included."""
    at: float
    """Monotonic seconds."""
    key: str


@dataclass(frozen=True)
class Reply:
    """What the server does with a request; by default it answers with the text it was sent."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: str = ""
    """Sent instead of a completion."""
    seconds: float = 0.0
    """Time before the answer."""
    drip: bool = False
    """Send a blank every 50 ms during that time, as proxies do to keep a connection open."""
    drop: bool = False
    """Close the connection without an answer."""


class ChatServer:
    def __init__(self, script: Callable[[Post], Reply], models: Reply | None = None) -> None:
        """``models`` is what is done with a request for the list of models."""
        self.models = models or Reply(body='{"object": "list", "data": []}')
        self.posts: list[Post] = []
        self._script, self._inside, self._lock = script, 0, threading.Lock()
        self._attempts: Counter[str] = Counter()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.url = f"http://127.0.0.1:{self._http.server_port}/v1"

    @contextmanager
    def running(self) -> Iterator[ChatServer]:
        thread = threading.Thread(target=self._http.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield self
        finally:
            self._http.shutdown()
            thread.join()
            self._http.server_close()

    def enter(self, text: str, key: str) -> Reply:
        with self._lock:
            self._inside += 1
            self._attempts[text] += 1
            post = Post(
                text=text,
                number=len(self.posts) + 1,
                attempt=self._attempts[text],
                inside=self._inside,
                at=time.monotonic(),
                key=key,
            )
            self.posts.append(post)
        return self._script(post)

    def leave(self) -> None:
        with self._lock:
            self._inside -= 1


def usage(text: str) -> dict[str, int]:
    """Tokens that the server counts for a text."""
    return {
        "prompt_tokens": 100 + len(text),
        "cached_tokens": len(text),
        "completion_tokens": 3 * len(text),
    }


def _completion(text: str) -> dict[str, Any]:
    spent = usage(text)
    return {
        "id": "chat",
        "object": "chat.completion",
        "created": 0,
        "model": "echo",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": text},
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": spent["prompt_tokens"],
            "completion_tokens": spent["completion_tokens"],
            "total_tokens": spent["prompt_tokens"] + spent["completion_tokens"],
            "prompt_tokens_details": {"cached_tokens": spent["cached_tokens"]},
        },
    }


def judged(choice: str = "1") -> str:
    """Body of an answer that is one of two choices, with log-probs."""
    top = [{"token": token, "logprob": p, "bytes": None} for token, p in (("1", -0.2), ("2", -1.7))]
    first = next(entry for entry in top if entry["token"] == choice)
    completion = _completion(choice)
    completion["choices"][0]["logprobs"] = {"content": [{**first, "top_logprobs": top}]}
    return json.dumps(completion)


def _handler(server: ChatServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:  # the list of models, which is looked at before a run
            time.sleep(server.models.seconds)
            try:
                self._answer(server.models, (server.models.body or "{}").encode())
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True

        def do_POST(self) -> None:
            length = int(self.headers["content-length"])
            text = json.loads(self.rfile.read(length))["messages"][-1]["content"]
            reply = server.enter(text, self.headers["authorization"])
            content = reply.body or json.dumps(
                _completion(text) if reply.status == 200 else {"error": {"message": "no"}}
            )
            if not reply.drip:
                time.sleep(reply.seconds)
            # Before the answer is sent: after it the client may be sending the next request.
            server.leave()
            try:
                self._answer(reply, content.encode())
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True  # the client has given up

        def _answer(self, reply: Reply, content: bytes) -> None:
            blanks = int(reply.seconds / 0.05) if reply.drip else 0
            if reply.drop:
                self.close_connection = True
                return
            self.send_response(reply.status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(blanks + len(content)))
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.end_headers()
            for _ in range(blanks):
                self.wfile.write(b" ")
                time.sleep(0.05)
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            return None

    return Handler
