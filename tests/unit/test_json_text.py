"""The JSON object in what a model wrote."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aloe.roles.json_text import object_in

NOTE = {"profile": ["keeps {bees}", 'says "hi"'], "personality": []}
KEYS = ("profile", "personality")


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        " {}\n",
        "```json\n{}\n```",
        "Sure! {{curly}} notes:\n```\n{}\n```\nI hope {{they}} help.",
        '{{"profile": 1}} no, rather {}',
        "{{ {}",
        "<note>{}</note>{{}}",
    ],
)
def test_the_object_is_found_wherever_it_stands(text):
    assert object_in(text.format(json.dumps(NOTE)), KEYS) == NOTE


def test_a_line_may_break_inside_a_string():
    assert object_in('{"a": "one\ntwo"}', ["a"]) == {"a": "one\ntwo"}


def test_an_escape_that_is_no_character_becomes_one():
    found = object_in(r'{"a\u0000": ["\ud83d bees", {"b": "\u0000"}], "c": "\ud83d\ude00"}', ["c"])
    assert found == {"a\ufffd": ["\ufffd bees", {"b": "\ufffd"}], "c": "\U0001f600"}


@pytest.mark.parametrize("text", ["", "no", "[1]", '{"profile": []}', "{" * 100_000])
def test_a_text_without_it_is_refused(text):
    with pytest.raises(ValueError, match="no JSON object"):
        object_in(text, KEYS)


@given(
    st.text(),
    st.lists(st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]))),
)
def test_words_before_it_do_not_hide_it(words, facts):
    value = {"profile": facts, "personality": []}
    if words.count("{") < 100:
        found = object_in(words.replace('"', "'") + json.dumps(value), KEYS)
        assert found == value
