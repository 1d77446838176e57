"""The report as a reader meets it: opened from disk in headless Chromium."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from report_run import HOSTILE_PERSONA, HOSTILE_TEXT


@dataclass
class Visit:
    """An open page and what it asked for and complained about."""

    page: object
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


@pytest.fixture
def visit(browser, report_url) -> Iterator[Visit]:
    page = browser.new_page(viewport={"width": 1400, "height": 900})
    page.set_default_timeout(15_000)
    seen = Visit(page)
    page.on("console", lambda message: seen.complaints.append(message.text))
    page.on("pageerror", lambda error: seen.complaints.append(str(error)))
    page.on("request", lambda request: seen.requests.append(request.url))
    page.goto(report_url)
    page.wait_for_selector("#plot-wall .main-svg")
    yield seen
    page.close()


def test_every_chart_is_drawn(visit):
    plots = visit.page.locator("[data-figure]")
    assert plots.count() >= 8
    for index in range(plots.count()):
        assert plots.nth(index).locator(".main-svg").count() > 0
    curves = visit.page.locator("#plot-alignment .scatterlayer path.js-line")
    lengths = curves.evaluate_all("paths => paths.map(path => path.getTotalLength())")
    assert len([length for length in lengths if length > 100]) >= 3
    assert visit.page.locator("#plot-alignment path.point").count() == 3 * 10
    assert visit.page.locator("#plot-sft-loss .scatterlayer path.js-line").count() == 3
    assert visit.page.locator("#plot-map-profile path.point").count() >= 36
    assert visit.page.locator(".modebar-btn").count() == 0


def test_a_tree_unfolds_on_a_click(visit):
    tree = visit.page.locator("details.tree").first
    assert not tree.locator(".reply").first.is_visible()
    tree.locator("summary").click()
    assert tree.locator(".reply.spine").first.is_visible()
    assert tree.locator(".reply.leaf").first.is_visible()
    assert tree.locator(".turn").count() == 5
    tree.locator("summary").click()
    assert not tree.locator(".reply").first.is_visible()


def test_a_tree_unfolds_from_the_keyboard(visit):
    tree = visit.page.locator("details.tree").first
    tree.locator("summary").focus()
    visit.page.keyboard.press("Enter")
    assert tree.locator(".reply").first.is_visible()


def test_hostile_text_is_shown_and_runs_nothing(visit):
    page = visit.page
    page.evaluate("document.querySelectorAll('details').forEach(part => { part.open = true; })")
    page.wait_for_timeout(300)
    assert page.locator(".persona dd").get_by_text(HOSTILE_PERSONA, exact=True).first.is_visible()
    said = page.locator(".said").filter(has_text="Well").first
    assert said.evaluate("node => node.textContent") == HOSTILE_TEXT
    assert page.evaluate("typeof window.__pwned") == "undefined"
    assert page.locator("main img").count() == 0


def test_hostile_text_is_plain_text_in_a_chart_as_well(visit):
    page = visit.page
    page.locator("#plot-map-profile").scroll_into_view_if_needed()
    place = page.locator("#plot-map-profile path.point").first.bounding_box()
    page.mouse.move(place["x"] + place["width"] / 2, place["y"] + place["height"] / 2)
    label = page.locator("#plot-map-profile .hovertext")
    label.wait_for()
    said = label.evaluate("node => node.textContent")
    for part in ("<script>window.__pwned=1</script>", "<img src=x", "<b>nets</b>", "&amp;"):
        assert part in said
    assert page.evaluate("typeof window.__pwned") == "undefined"


def test_nothing_is_loaded_and_nothing_complains(visit, report_url):
    visit.page.wait_for_timeout(300)
    assert visit.requests == [report_url]
    assert visit.complaints == []


def test_the_policy_refuses_a_script_that_is_not_the_reports(visit):
    ran = visit.page.evaluate(
        """() => {
            const script = document.createElement("script");
            script.textContent = "window.__smuggled = 1";
            document.body.append(script);
            return typeof window.__smuggled;
        }"""
    )
    assert ran == "undefined"


@pytest.mark.parametrize("width", [400, 1400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_its_window_in_both_themes(browser, report_url, width, scheme):
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page.set_default_timeout(15_000)
    page.goto(report_url)
    page.wait_for_selector("#plot-wall .main-svg")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    ink, paper = page.evaluate(
        "() => { const s = getComputedStyle(document.body); return [s.color, s.backgroundColor]; }"
    )
    brightness = [sum(map(int, color[4:-1].split(","))) for color in (ink, paper)]
    assert (brightness[0] < brightness[1]) == (scheme == "light")
    page.close()
