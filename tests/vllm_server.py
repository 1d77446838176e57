"""vLLM's own OpenAI server on loopback."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from aloe.engines.embedded import resolve_checkpoint


@contextmanager
def vllm_server(path: str, folder: Path) -> Iterator[str]:
    """Serve a checkpoint as ``vllm serve`` does (the CPU package's command lacks it).

    Args:
        path: checkpoint; its last part is the model's name, as in embedded://NAME.
        folder: where the server's log goes.

    Yields:
        The API's root URL.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    name = path.rsplit("/", 1)[-1]
    flags = f"--host 127.0.0.1 --port {port} --served-model-name {name} --dtype float32"
    more = "--max-model-len 2048 --max-num-seqs 8 --enforce-eager --no-enable-chunked-prefill"
    memory = f"--kv-cache-memory-bytes {1 << 28} --block-size 32 --enable-prompt-tokens-details"
    module = "vllm.entrypoints.openai.api_server"
    command = [sys.executable, "-m", module, "--model", resolve_checkpoint(path)]
    log = folder / "vllm.log"
    with log.open("w") as out:
        process = subprocess.Popen(
            [*command, *flags.split(), *more.split(), *memory.split()],
            stdout=out,
            stderr=out,
            env=os.environ | {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1"},
        )
    try:
        _wait_until_healthy(f"http://127.0.0.1:{port}/health", process, log)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait(30)


def _wait_until_healthy(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 240
    while True:
        try:
            urllib.request.urlopen(url, timeout=2).close()
            return
        except (urllib.error.URLError, OSError):
            assert process.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < deadline, log.read_text()[-3000:]
            time.sleep(1)
