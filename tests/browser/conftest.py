"""Headless Chromium for the tests of the report."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from report_run import report_config, write_run

from aloe.report import write_report
from aloe.storage import Store

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
    """Path of the browser; the tests are skipped where there is none."""
    if found := shutil.which("chromium"):
        return found
    pytest.skip("no chromium: see requirements/browser.sh, which `make test` runs")


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
