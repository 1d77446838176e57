"""Conversations as people have them: what is read, and what is refused by name."""

import csv
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aloe.errors import UserError
from aloe.given import read_conversations

TEXT = st.text(min_size=1).filter(str.strip)
SHAREGPT = {"user": "human", "assistant": "gpt"}


def alternating(texts):
    roles = ("user", "assistant")
    return [{"role": roles[i % 2], "content": text} for i, text in enumerate(texts)]


def sharegpt(messages):
    return [{"from": SHAREGPT[m["role"]], "value": m["content"]} for m in messages]


def read(path):
    return list(read_conversations([str(path)]))


@settings(max_examples=60, deadline=None)
@given(talks=st.lists(st.lists(TEXT, min_size=1, max_size=6), min_size=1, max_size=5))
def test_every_form_gives_the_same_conversations(tmp_path_factory, talks):
    folder = tmp_path_factory.mktemp("talks")
    wanted = [alternating(texts) for texts in talks]
    rows = [{"messages": messages} for messages in wanted]
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    shared = [{"conversations": sharegpt(messages)} for messages in wanted]
    (folder / "b.json").write_text(json.dumps(shared))
    pq.write_table(pa.Table.from_pylist(shared), folder / "c.parquet")
    for name, delimiter in (("d.csv", ","), ("e.tsv", "\t")):
        with (folder / name).open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file, delimiter=delimiter)
            table.writerows([["messages", "id"], *([json.dumps(talk), ""] for talk in wanted)])
    for name in ("a.jsonl", "b.json", "c.parquet", "d.csv", "e.tsv"):
        found = read(folder / name)
        assert [list(conversation.messages) for conversation in found] == wanted


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["role", "from", "content", "value", "text"]), inner)
    ),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(value=JSON, column=st.sampled_from(["messages", "conversations"]))
def test_whatever_stands_there_is_read_or_refused_in_one_line(tmp_path_factory, value, column):
    path = tmp_path_factory.mktemp("any") / "x.jsonl"
    path.write_text(json.dumps({column: value}) + "\n")
    try:
        [conversation] = read(path)
    except UserError as error:
        assert str(error).startswith(f"{path}:1: ")
        assert "\n" not in str(error)
    else:
        assert conversation.messages[0]["role"] == "user"


def test_ids_personas_and_parts_of_text_are_kept(tmp_path):
    row = {
        "id": 7,
        "persona": ["I like tea.", "I have a dog."],
        "conversations": [
            {"from": "system", "value": "Be kind."},
            {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
            {"from": "gpt", "value": " Hello! "},
        ],
    }
    (tmp_path / "x.jsonl").write_text(json.dumps(row) + "\n")
    [found] = read(tmp_path / "x.jsonl")
    assert (found.conversation_id, found.persona_id) == ("7", None)
    assert (found.profile, found.personality) == ("I like tea. I have a dog.", "")
    assert found.messages == (
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": " Hello! "},
    )


def message(role, content="Hi."):
    return {"role": role, "content": content}


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"text": "Hi."}, "no conversation, expected one of conversations, messages"),
        ({"messages": []}, "no messages, expected a list"),
        ({"messages": "Hi."}, "no messages, expected a list"),
        ({"messages": "[" * 9999}, "no messages, expected a list"),
        ({"messages": '{"role": "user"}'}, "no messages, expected a list"),
        ({"messages": [message("user")], "id": True}, "no id in id, expected text or a number"),
        ({"messages": [message("user")], "persona_id": [1]}, "no id in persona_id, expected"),
        ({"messages": [message("system")]}, "no messages of a user"),
        ({"messages": [message("tool")]}, "message 1: its role is 'tool', expected user or"),
        ({"messages": [message("assistant")]}, "message 1: from the assistant, expected .* user"),
        ({"messages": [message("user")] * 2}, "message 2: from the user, expected .* assistant"),
        ({"messages": [message("user"), message("system")]}, "message 2: from the system"),
        ({"messages": [message("user", " ")]}, "message 1: no text"),
        ({"messages": [message("user", [{"type": "image_url"}])]}, "message 1: a part of it"),
        ({"messages": ["Hi."]}, "message 1: expected an object with role and content"),
    ],
)
def test_a_bad_row_is_named_by_file_and_row(tmp_path, row, said):
    fine = json.dumps({"messages": [message("user")]})
    (tmp_path / "x.jsonl").write_text(f"{fine}\n{json.dumps(row)}\n")
    with pytest.raises(UserError, match=rf"x\.jsonl:2: {said}"):
        read(tmp_path / "x.jsonl")


def test_a_file_without_conversations_is_named(tmp_path):
    (tmp_path / "x.jsonl").write_text("\n")
    with pytest.raises(UserError, match=r"x\.jsonl: no conversation there"):
        read(tmp_path / "x.jsonl")
    pq.write_table(pa.table({"a": ["b"]}), tmp_path / "x.parquet")
    with pytest.raises(UserError, match=r"x\.parquet: expected one of conversations, messages"):
        read(tmp_path / "x.parquet")


def test_what_a_row_of_a_table_leaves_empty_is_not_there(tmp_path):
    rows = "conversations,messages,id,persona_id,persona\n"
    rows += ',"[{""role"": ""user"", ""content"": ""Hi""}]",,,\n'
    (tmp_path / "x.csv").write_text(rows)
    [found] = read(tmp_path / "x.csv")
    assert (found.persona_id, found.profile) == (None, "")
    assert found.messages == ({"role": "user", "content": "Hi"},)
    assert len(found.conversation_id) == 16
