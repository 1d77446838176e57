"""Run folders, configurations and a moody server for tests of the benchmark."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from aloe.config import Config
from aloe.schema import PERSONAS
from aloe.storage import Store

HELDOUT = 6


def make_config(folder, latency_s: float = 0.0, **evaluation) -> Config:
    roles = dict.fromkeys(("user", "inducer", "guided", "unguided", "judge"), "script")
    return Config.model_validate(
        {
            "run": {"dir": str(folder), "seed": 5},
            "ray": {"num_cpus": 4, "logical_gpus": 1, "object_store_mib": 100},
            "models": {
                "script": {"backend": "scripted", "latency_s": latency_s},
                "twin": {"backend": "scripted", "latency_s": latency_s + 0.001},
                "server": {"backend": "scripted"},
            },
            "roles": roles,
            "personas": {
                "writer": "script",
                "profiles": {"size": 3},
                "personalities": {"size": 3},
            },
            "training": {"base": "embedded://tiny"},
            "evaluation": {
                "policies": {"base": "model:script", "other": "model:twin"},
                "turns": 3,
                "bootstrap_samples": 100,
                "actors": {"min": 1, "max": 2, "num_cpus": 1, "in_flight": 3},
                **evaluation,
            },
        }
    )


def make_run(folder, heldout: int = HELDOUT) -> Store:
    """A run folder with personas as the stage before leaves them."""
    store = Store(str(folder))
    rows = [
        {
            "persona_id": f"p{number}",
            "profile_id": f"f{number}",
            "personality_id": "t",
            "profile": f"Person {number}.",
            "personality": "Calm.",
            "split": "benchmark" if number < heldout else "train",
        }
        for number in range(heldout + 3)
    ]
    store.write_table("personas/personas.parquet", rows, PERSONAS)
    manifest = {"stage": "personas", "settings": {}, "fingerprint": "f", "complete": True}
    usage = {"calls": 0}
    store.write_text("personas/manifest.json", json.dumps({**manifest, "usage": usage}))
    return store


def with_server(config: Config, url: str) -> Config:
    model = {"backend": "openai", "model": "m", "base_url": url}
    values = config.model_dump(mode="json")
    return Config.model_validate({**values, "models": {**values["models"], "server": model}})


@contextmanager
def moody_server() -> Iterator[Callable[[int], str]]:
    """An OpenAI-compatible server; called with N, it says nothing in the next N conversations."""
    silent: set[str] = set()
    heard: set[str] = set()
    quota = 0

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.answer({"object": "list", "data": []})

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            opening = next(m["content"] for m in body["messages"] if m["role"] == "user")
            if opening not in heard and len(silent) < quota:
                silent.add(opening)
            heard.add(opening)
            text = "" if opening in silent else f"You said {body['messages'][-1]['content']}"
            message = {"role": "assistant", "content": text}
            choice = {"index": 0, "finish_reason": "stop", "message": message}
            self.answer(
                {
                    "id": "1",
                    "object": "chat.completion",
                    "created": 0,
                    "model": "m",
                    "choices": [choice],
                }
            )

        def answer(self, body):
            data = json.dumps(body).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def silence(conversations: int) -> str:
        nonlocal quota
        quota = conversations
        silent.clear()
        heard.clear()
        return f"http://127.0.0.1:{server.server_port}/v1"

    yield silence
    server.shutdown()
    server.server_close()
