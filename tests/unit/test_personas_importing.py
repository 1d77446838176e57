import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aloe.errors import UserError
from aloe.personas import import_pool, read_pool_files

TEXTS = st.text(min_size=1).filter(str.strip)
SPACES = st.text(alphabet=" \t\r", max_size=3)


def read(tmp_path, data):
    path = tmp_path / "pool.jsonl"
    path.write_bytes(data)
    return read_pool_files([str(path)])


@settings(max_examples=200, deadline=None)
@given(pieces=st.lists(st.tuples(TEXTS, SPACES, st.sampled_from(["", "\n", "\n \n"])), min_size=1))
def test_any_concatenation_of_json_strings_is_read_back(tmp_path_factory, pieces):
    lines = "".join(
        json.dumps(text, ensure_ascii=False) + space + end for text, space, end in pieces
    )
    texts = read(tmp_path_factory.mktemp("pool"), lines.encode())
    assert texts == [text for text, _, _ in pieces]


@settings(max_examples=100, deadline=None)
@given(texts=st.lists(TEXTS, min_size=1))
def test_an_imported_pool_is_read_back_without_repeats(tmp_path_factory, texts):
    folder = tmp_path_factory.mktemp("pool")
    source, out = folder / "in.jsonl", folder / "out.jsonl"
    source.write_bytes("".join(json.dumps(text) + "\n" for text in texts).encode())
    report = import_pool([str(source)], "profile", str(out))
    distinct = list(dict.fromkeys(texts))
    assert read_pool_files([str(out)]) == report.texts == distinct
    assert (report.read, report.repeated) == (len(texts), len(texts) - len(distinct))


def test_two_values_on_a_line_are_two_texts(tmp_path):
    assert read(tmp_path, b'"Has a cat."  "Sells fish."\n\n"Is 30."') == [
        "Has a cat.",
        "Sells fish.",
        "Is 30.",
    ]


def test_byte_order_mark_and_crlf_are_no_part_of_a_text(tmp_path):
    assert read(tmp_path, b'\xef\xbb\xbf"a"\r\n"b"\r\n') == ["a", "b"]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (b"{}", "got an object"),
        (b'"a" 3', "got a number"),
        (b"null", "got null"),
        (b'""', "an empty one"),
        (b'"  "', "an empty one"),
        (b'"half', "broken JSON"),
        (b"plain text", "broken JSON"),
        (b'"\xff"', "not UTF-8"),
        (b'"\\ud800"', "surrogate"),
    ],
)
def test_a_bad_line_is_named_by_file_and_number(tmp_path, line, complaint):
    with pytest.raises(UserError, match=rf"pool\.jsonl:3: .*{complaint}"):
        read(tmp_path, b'"fine"\n\n' + line + b"\n")


def test_many_bad_lines_are_counted_on_one_line(tmp_path):
    with pytest.raises(UserError, match="and 4 more bad lines") as caught:
        read(tmp_path, b"1\n" * 9)
    assert "\n" not in str(caught.value)


def test_files_are_read_by_url_and_in_order(tmp_path):
    (tmp_path / "a.jsonl").write_text('"one"\n')
    (tmp_path / "b.jsonl").write_text('"two"\n')
    names = [f"file://{tmp_path}/b.jsonl", str(tmp_path / "a.jsonl")]
    assert read_pool_files(names) == ["two", "one"]


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"none\.jsonl: cannot be read"):
        read_pool_files([str(tmp_path / "none.jsonl")])


def test_import_refuses_an_unknown_kind_and_empty_files(tmp_path):
    empty = tmp_path / "empty.jsonl"
    empty.write_text("\n")
    with pytest.raises(UserError, match="expected profile or personality"):
        import_pool([str(empty)], "person", str(tmp_path / "out.jsonl"))
    with pytest.raises(UserError, match="no persona there"):
        import_pool([str(empty)], "profile", str(tmp_path / "out.jsonl"))


def test_import_counts_off_topic_texts_and_keeps_them(tmp_path):
    source = tmp_path / "in.jsonl"
    source.write_text('"Works as a teacher."\n"Jokes a lot."\n')
    report = import_pool([str(source)], "personality", str(tmp_path / "out.jsonl"))
    assert report.off_topic == 1
    assert len(report.texts) == 2
