"""What the report's page is made of: escapes, hashes and formats."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aloe.report.figure import plain
from aloe.report.page import duration, embed_json, number, quantity, script_hash, signed


@given(st.recursive(st.text() | st.integers(), lambda part: st.dictionaries(st.text(), part)))
def test_embedded_json_keeps_its_value_and_cannot_end_its_block(value):
    text = str(embed_json(value))
    assert json.loads(text) == value
    assert text.isascii()
    assert not set("<>&") & set(text)


def test_embedded_json_of_a_closing_tag():
    assert str(embed_json("</script>\u2028")) == '"\\u003c/script\\u003e\\u2028"'


def test_embedded_json_refuses_nan():
    with pytest.raises(ValueError, match="not JSON compliant"):
        embed_json([float("nan")])


def test_script_hash_is_the_csp_form_of_sha256():
    # The example of CSP level 2, section 7.17.
    assert script_hash("alert('Hello, world.');") == (
        "'sha256-qznLcsROx4GACP2dm0UCKCzCG+HiZ1guq6ZZDob/Tng='"
    )


def test_plain_leaves_plotly_nothing_to_read_as_markup():
    assert plain("<b>a</b> & <a href='x'>") == "&lt;b&gt;a&lt;/b&gt; &amp; &lt;a href='x'&gt;"


def test_plain_breaks_and_cuts_long_text():
    lines = plain("word " * 100, width=20, lines=3).split("<br>")
    assert len(lines) == 3
    assert lines[-1].endswith("…")
    assert all(len(line) <= 20 for line in lines)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "undefined"),
        (float("nan"), "undefined"),
        (1234, "1,234"),
        (-0.5, "−0.50"),
        (1e-5, "1e−05"),
        (0.0, "0.00"),
        ([0.1, -0.2], "[0.10, −0.20]"),
        ("adam", "adam"),
    ],
)
def test_number(value, text):
    assert number(value) == text


def test_signed_difference():
    assert [signed(x) for x in (0.25, -0.25, 0.0, None)] == ["+0.25", "−0.25", "0.00", "undefined"]


@pytest.mark.parametrize(
    ("value", "text"), [(950, "950"), (12_345, "12.3k"), (999_999, "1M"), (4_560_000, "4.56M")]
)
def test_quantity(value, text):
    assert quantity(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(4.23, "4.2 s"), (59.97, "1 min 00 s"), (185, "3 min 05 s"), (7800, "2 h 10 min")],
)
def test_duration(seconds, text):
    assert duration(seconds) == text
