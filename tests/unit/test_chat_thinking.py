"""What is thought is apart from what is said, and no character breaks a table."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aloe.chat import repaired, split_thinking

TEXT = st.text().filter(lambda text: "think" not in text.lower() and text.lstrip()[:1] not in "<[")


@pytest.mark.parametrize(
    ("text", "opened", "expected"),
    [
        ("Hello.", False, ("", "Hello.")),
        ("<think>\nHm.\n</think>\n\nHello.", False, ("Hm.", "Hello.")),
        ("Hm.\n</think>\n\nHello.", False, ("Hm.", "Hello.")),
        ("Hm.\n</think>\n\nHello.", True, ("Hm.", "Hello.")),
        ("Hm, and then", True, ("Hm, and then", "")),
        ("<think>Hm, and then", False, ("Hm, and then", "")),
        ("Well. <think>Hm.</think> Hello.", False, ("Hm.", "Well. Hello.")),
        ("Say <think> aloud.", False, ("", "Say <think> aloud.")),
        ("<think>\n\n</think>\n\nHello.", False, ("", "Hello.")),
        ("<thought>Hm.</thought>Hello.", False, ("Hm.", "Hello.")),
        ("[THINK]Hm.[/THINK]Hello.", False, ("Hm.", "Hello.")),
    ],
)
def test_thoughts_are_apart(text, opened, expected):
    assert split_thinking(text, opened) == expected


@given(TEXT)
def test_a_text_without_thoughts_stays_as_it_is(text):
    assert split_thinking(text) == ("", text)


@given(st.text(st.characters(exclude_categories=[])))
def test_what_is_no_character_becomes_one_and_is_counted(text):
    found, count = repaired(text)
    assert found.encode().decode() == found and "\x00" not in found
    assert count == sum(c == "\x00" or "\ud800" <= c <= "\udfff" for c in text)
    assert len(found) == len(text)
