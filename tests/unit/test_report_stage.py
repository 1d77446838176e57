"""The report stage on run folders that are complete, half done or empty."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest
from report_run import report_config, write_evaluation, write_pools, write_run, write_trees

from aloe.errors import UserError
from aloe.report import write_report
from aloe.report.page import script_hash
from aloe.storage import Store
from aloe.storage.manifest import load_manifest

SECTIONS = {"results", "training", "personas", "trees", "budget", "errors"}


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path / "demo"))


@pytest.fixture
def rng():
    return random.Random(7)


@pytest.fixture
def complete(store):
    write_run(store)
    return store


def page_of(store, **report):
    write_report(report_config(store.root, **report), store)
    return Path(store.path("report", "index.html")).read_text(encoding="utf-8")


def sections(html):
    return set(re.findall(r'<section id="(\w+)"', html))


def test_a_complete_run_has_every_section_and_a_manifest(complete):
    html = page_of(complete)
    assert sections(html) == SECTIONS
    assert html.count('<details class="tree">') == 10
    assert "10 of 12 trees" in html
    assert "This run is not finished" not in html
    manifest = load_manifest(complete, "report")
    assert manifest is not None
    assert manifest.complete
    assert manifest.counts == {"trees": 10}


def test_a_second_call_leaves_the_page_alone(complete):
    page_of(complete)
    page = Path(complete.path("report", "index.html"))
    page.write_text("untouched")
    assert page_of(complete) == "untouched"


def test_other_settings_are_named(complete):
    page_of(complete)
    with pytest.raises(UserError, match="title"):
        page_of(complete, title="Another")


def test_equal_runs_give_equal_pages(tmp_path):
    pages = []
    for place in ("a", "b"):
        store = Store(str(tmp_path / place / "demo"))
        write_run(store)
        pages.append(page_of(store))
    assert pages[0] == pages[1]


def test_an_empty_folder_gives_a_page_that_says_so(store):
    html = page_of(store)
    assert sections(html) == {"budget"}
    assert "This run is not finished" in html
    assert "Evaluation: not yet" in html
    assert not store.exists("report", "manifest.json")


def test_a_preview_shows_what_is_there_and_is_written_again(store, rng):
    write_pools(store, rng)
    assert sections(page_of(store)) == {"personas", "budget"}
    write_trees(store, trees=3, turns=2, rng=rng)
    html = page_of(store)
    assert sections(html) == {"personas", "trees", "budget", "errors"}
    assert "No tree, case or request was given up." in html


def test_an_evaluation_alone_is_a_preview_too(store):
    write_evaluation(store, turns=3)
    assert sections(page_of(store)) == {"results", "budget"}
    assert not store.exists("report", "manifest.json")


def test_fewer_trees_than_asked_are_all_shown(store, rng):
    write_trees(store, trees=4, turns=2, rng=rng)
    html = page_of(store)
    assert html.count('<details class="tree">') == 4
    assert "The run has 4 trees, fewer than the 10 asked for; all are shown." in html


def test_an_undefined_measure_says_so(complete):
    html = page_of(complete)
    body = html[html.index("N-IR") : html.index("</tbody>", html.index("N-IR"))]
    assert body.count("undefined</span>") == 1
    assert "nan" not in body.lower()
    assert "None" not in body


def test_model_text_is_escaped_wherever_it_stands(complete):
    html = page_of(complete)
    for raw in ("<script>window", "<img src=x", "<!-- fine"):
        assert raw not in html
    assert "&lt;script&gt;window.__pwned=1&lt;/script&gt;" in html
    assert "{{ 7 * 7 }}" in html


def test_the_policy_allows_the_inlined_scripts_and_no_others(complete):
    html = page_of(complete)
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', html).group(1)
    scripts = re.findall(r"<script>(.*?)</script>", html, flags=re.DOTALL)
    allowed = re.search(r"script-src ([^;]*)", policy).group(1)
    assert allowed.split() == [script_hash(script) for script in scripts]
    assert len(scripts) == 2
    assert "default-src 'none'" in policy
    assert "unsafe-eval" not in policy
