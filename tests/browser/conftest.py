"""Headless Chromium for the tests of the report; Debian's package is installed where it can be."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from report_run import report_config, write_run

from aloe.report import write_report
from aloe.storage import Store

_CHROMIUM = "/usr/bin/chromium"
_INSTALL = ["apt-get update", "apt-get install -y --no-install-recommends chromium"]
_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="session")
def chromium() -> str:
    """Path of the browser; the tests are skipped with the reason where there is none."""
    if found := shutil.which("chromium"):
        return found
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        pytest.skip("no chromium, and no root with apt-get to install it")
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for command in _INSTALL:
        done = subprocess.run(command.split(), env=environment, capture_output=True, text=True)
        if done.returncode != 0:
            pytest.skip(f"chromium: `{command}` failed: {done.stderr.strip()[-300:]}")
    return _CHROMIUM


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator:
    # Not for the whole session: while Playwright is open, its event loop runs in this thread and
    # no other test can start one.
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=_FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def report_url(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A report about a complete run, as a file:// address."""
    store = Store(str(tmp_path_factory.mktemp("run") / "demo"))
    write_run(store)
    write_report(report_config(store.root), store)
    return Path(store.path("report", "index.html")).as_uri()
