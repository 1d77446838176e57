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
        ("\n<think>\nHm.\n</think>\n\nHello.", False, ("Hm.", "Hello.")),
        (" <think>Hm.</think>Hello.", True, ("Hm.", "Hello.")),
        ("\n\n<think>\n\n</think>\n\nHello.", False, ("", "Hello.")),
        ("\n<think>\nHm.\n</think>\n\nHello.", True, ("Hm.", "Hello.")),
        ("<think>\n<think>\nHm.</think>Hello.", False, ("Hm.", "Hello.")),
        ("<think>Hm, and then", True, ("Hm, and then", "")),
        ("<think>a<think>b</think>c</think>Hello.", False, ("abc", "Hello.")),
        ("<think>What is <think>?</think>Hello.", False, ("What is ?", "Hello.")),
        ("<think>a</think>b</think>Hello.", False, ("a\n\nb", "Hello.")),
        ("a</think>b</think>Hello.", True, ("a\n\nb", "Hello.")),
        ("<think>a</think>Hello.\n<think>b, and", False, ("a\n\nb, and", "Hello.")),
        ("a</think>Hello. <think>b, and", True, ("a\n\nb, and", "Hello.")),
        ("Hello.\n<think>b, and", False, ("b, and", "Hello.")),
        ("<think>a</think>\n\n  x = 1\n", False, ("a", "  x = 1\n")),
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
