"""An S3 server (moto, in a process of its own) and a proxy before it that injects faults."""

from __future__ import annotations

import http.client
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal
from urllib.parse import urlsplit

import fsspec
import pytest

KEYS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing"}
"""All of the environment that a test's S3 access may lean on."""

_START_S = 60


@contextmanager
def moto_server() -> Iterator[str]:
    """Endpoint URL of a fresh server with the bucket ``aloe``."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    endpoint = f"http://127.0.0.1:{port}"
    try:
        _make_bucket(f"{endpoint}/aloe", process)
        yield endpoint
    finally:
        process.terminate()
        process.wait()


@contextmanager
def bucket_of_the_environment() -> Iterator[str]:
    """URL of a fresh bucket; how to reach it is said by the environment alone."""
    region = {"AWS_DEFAULT_REGION": "us-east-1"}
    with moto_server() as endpoint, pytest.MonkeyPatch.context() as patch:
        for key, value in {**KEYS, **region, "AWS_ENDPOINT_URL": endpoint}.items():
            patch.setenv(key, value)
        fsspec.filesystem("s3").clear_instance_cache()
        yield "s3://aloe"
        fsspec.filesystem("s3").clear_instance_cache()


def _make_bucket(url: str, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + _START_S
    while True:
        try:
            urllib.request.urlopen(urllib.request.Request(url, method="PUT")).close()
            return
        except OSError:
            if process.poll() is not None or time.monotonic() > end:
                raise
            time.sleep(0.1)


@dataclass
class Fault:
    """What goes wrong with the first ``times`` requests of a kind.

    error: the server answers with ``status``, and ``code`` as S3's name for the error.
    slow: it answers after ``delay_s``.
    drop: the connection ends before the server has seen the request.
    lost: the server does what is asked, and the connection ends without an answer.
    cut: the connection ends in the middle of the answer.
    """

    kind: Literal["error", "slow", "drop", "lost", "cut"]
    method: str = ""
    target: str = ""
    """Part of path and query; with ``method`` it says which requests; empty is all."""
    times: float = 1
    status: int = 500
    code: str = ""
    delay_s: float = 3.0
    hits: int = 0


@dataclass
class FaultyProxy:
    """Passes requests on to a server, except for those that a fault of `faults` takes."""

    upstream: str
    faults: list[Fault] = field(default_factory=list)
    requests: list[tuple[str, str]] = field(default_factory=list)
    """Method and target of everything that came, in order."""
    url: str = ""
    closing: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def fault_for(self, method: str, target: str) -> Fault | None:
        with self.lock:
            self.requests.append((method, target))
            for fault in self.faults:
                meant = fault.method in ("", method) and fault.target in target
                if meant and fault.hits < fault.times:
                    fault.hits += 1
                    return fault
        return None


@contextmanager
def faulty_proxy(upstream: str) -> Iterator[FaultyProxy]:
    """A proxy on a port of its own."""
    proxy = FaultyProxy(upstream)
    handler = type("Handler", (_Handler,), {"proxy": proxy})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    proxy.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: FaultyProxy

    def handle_request(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fault = self.proxy.fault_for(self.command, self.path)
        kind = fault.kind if fault else "none"
        if fault and kind == "slow":
            self.proxy.closing.wait(fault.delay_s)
        if kind == "drop":
            return self._hang_up()
        if fault and kind == "error":
            said = f"<Error><Code>{fault.code}</Code></Error>".encode() if fault.code else b""
            return self._answer(fault.status, [], said)
        status, headers, answer = self._pass_on(body)
        if kind == "lost":
            return self._hang_up()
        return self._answer(status, headers, answer, cut=kind == "cut")

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = handle_request  # noqa: N815

    def _pass_on(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        server = http.client.HTTPConnection(urlsplit(self.proxy.upstream).netloc, timeout=60)
        headers = {key: value for key, value in self.headers.items() if key != "Expect"}
        server.request(self.command, self.path, body, headers)
        response = server.getresponse()
        answer = response.read()
        server.close()
        return response.status, response.getheaders(), answer

    def _answer(
        self, status: int, headers: list[tuple[str, str]], body: bytes, cut: bool = False
    ) -> None:
        by_server = {"connection", "transfer-encoding", "date", "server"}
        head = {key: value for key, value in headers if key.lower() not in by_server}
        if self.command != "HEAD":
            head["Content-Length"] = str(len(body))
        lines = [f"HTTP/1.1 {status} {http.client.responses.get(status, '')}"]
        lines += [f"{key}: {value}" for key, value in head.items()]
        data = "\r\n".join([*lines, "", ""]).encode()
        whole = data + body
        kept = len(data) + len(body) // 2 if body else len(data) // 2
        try:
            self.wfile.write(whole[:kept] if cut else whole)
        except OSError:
            self.close_connection = True  # the client did not wait
            return
        if cut:
            self._hang_up()

    def _hang_up(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, format: str, *args: object) -> None:
        pass
