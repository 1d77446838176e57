"""Does the environment for verifiers load and play, and what does it cost? In a venv of its own.

    python benchmarks/environments.py --json FILE

Installs requirements/verifiers.txt into .venv-verifiers unless that is there, loads ``aloe-twins``
with verifiers' own loader and plays one rollout with each of two twins against a chat completions
server that says four replies in turn. One of the four meets all of a person's preferences.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import threading
import time
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
BY_NAME = ROOT / "aloe" / "environments" / "found_by_name"
SAID = ("How lovely! What is it?", "How lovely!", "How lovely. What is it?", "How lovely.")


def installed(folder: Path) -> Path:
    """The interpreter of an environment with verifiers; made if it is not there."""
    wanted, done = ROOT / "requirements" / "verifiers.txt", folder / ".installed"
    python = folder / "bin" / "python"
    if not done.exists() or done.read_text() != wanted.read_text():
        venv.create(folder, with_pip=True, clear=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "-r", str(wanted)], check=True)
        done.write_text(wanted.read_text())
    return python


@contextmanager
def scripted_server() -> Iterator[str]:
    """URL of a server that says the replies of ``SAID`` in turn, whatever the user says."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["content-length"])))["messages"]
            before = sum(message["role"] == "assistant" for message in asked)
            message = {"role": "assistant", "content": SAID[before % len(SAID)]}
            answer = {
                "id": "chat",
                "object": "chat.completion",
                "created": 0,
                "model": "scripted",
                "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
            }
            body = json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            return None

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


async def play(url: str, turns: int) -> dict[str, Any]:
    """Load the environment and play a rollout with each of two twins."""
    began = time.perf_counter()
    import verifiers.v1 as vf
    from verifiers.v1.utils.loaders import load_environment, resolve_env_config

    options = {"id": "aloe-twins", "people": 2, "count": 2, "turns": turns}
    options["pairs"] = ("question", "tone")
    environment = load_environment(resolve_env_config({"taskset": options}))
    loaded = time.perf_counter()
    context = vf.ModelContext(client=vf.EvalClientConfig(base_url=url), model="scripted")
    rollouts = []
    async with environment.serving():
        for task in environment.taskset:
            start = time.perf_counter()
            episode = await environment.run_episode(task, context)
            if not episode.ok:
                raise SystemExit(f"{[e for trace in episode.traces for e in trace.errors]}")
            (trace,) = episode.traces
            rollouts.append(
                {
                    "turns": trace.num_turns,
                    "rewards": [turn["reward"] for turn in trace.info["turns"]],
                    "hints": [turn["hint"] for turn in trace.info["turns"]],
                    "reward": trace.reward,
                    "seconds": time.perf_counter() - start,
                }
            )
    return {"load_s": loaded - began, "rollouts": rollouts}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--turns", type=int, default=6)
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv-verifiers")
    parser.add_argument("--play", metavar="URL", help="in the environment with verifiers: do so")
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    arguments = parser.parse_args()
    if arguments.play:
        print(json.dumps(asyncio.run(play(arguments.play, arguments.turns))))
        return
    from measuring import write_json  # what it imports is not in the other environment

    python = installed(arguments.venv)
    with scripted_server() as url:
        told = subprocess.run(
            [python, __file__, "--play", url, "--turns", str(arguments.turns)],
            env=os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{BY_NAME}"},
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
    if told.returncode:
        sys.exit(told.returncode)
    found = json.loads(told.stdout.splitlines()[-1])
    print(json.dumps(found, indent=2))
    one, other = (rollout["rewards"] for rollout in found["rollouts"])
    # The replies are the same for both: what one likes, the other does not.
    assert all(a + b == 1 for a, b in zip(one, other, strict=True)), (one, other)
    write_json(arguments, {}, found)


if __name__ == "__main__":
    main()
