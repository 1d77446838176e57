import bz2
import csv
import gzip
import io
import json
import lzma
import random
import tracemalloc
import zipfile

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aloe.errors import UserError
from aloe.given import records
from aloe.personas import (
    Columns,
    found,
    import_personas,
    import_pool,
    import_pools,
    read_personas,
    read_pool_files,
)
from aloe.personas.duplicates import Hashes, Repeats
from aloe.personas.languages import language_of

TEXTS = st.text(min_size=1).filter(str.strip)
SPACES = st.text(alphabet=" \t\r", max_size=3)


def read(tmp_path, data):
    path = tmp_path / "pool.jsonl"
    path.write_bytes(data)
    return texts_of(path)


def texts_of(*paths):
    return [entry.text for entry in read_pool_files(map(str, paths))]


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
    assert texts_of(out) == distinct
    assert (report.kept, report.read) == (len(distinct), len(texts))
    assert report.repeated == len(texts) - len(distinct)


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
    with pytest.raises(UserError, match="and 4 more bad rows") as caught:
        read(tmp_path, b"1\n" * 9)
    assert "\n" not in str(caught.value)


def test_files_are_read_by_url_and_in_order(tmp_path):
    (tmp_path / "a.jsonl").write_text('"one"\n')
    (tmp_path / "b.jsonl").write_text('"two"\n')
    names = [f"file://{tmp_path}/b.jsonl", str(tmp_path / "a.jsonl")]
    assert texts_of(*names) == ["two", "one"]


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
    assert report.kept == 2


ROWS = [
    {"id": "a", "persona": "Sells fish.", "skills": ["Can swim.", "Reads maps."], "age": 30},
    {"id": "b", "persona": "Räumt gern auf.", "skills": [], "age": 41},
    {"id": "c", "persona": "Любит море.", "skills": None, "age": 52},
    {"id": "d", "persona": "Sells fish.", "skills": ["Can swim.", "Reads maps."], "age": 30},
]
WHOLE = ["Sells fish. Can swim. Reads maps.", "Räumt gern auf.", "Любит море."]


def as_jsonl(folder):
    file = folder / "personas.jsonl"
    lines = [json.dumps(row, ensure_ascii=False) for row in ROWS]
    file.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode() + b"\n\n")
    return file


def as_parquet(folder):
    pq.write_table(pa.Table.from_pylist(ROWS), folder / "personas.parquet")
    return folder / "personas.parquet"


def as_saved_data_set(folder):
    datasets.Dataset.from_list(ROWS).save_to_disk(str(folder / "saved"))
    return folder / "saved"


def as_downloaded_data_set(folder):
    (folder / "hub" / "data").mkdir(parents=True)
    for number, rows in enumerate((ROWS[:2], ROWS[2:])):
        file = folder / "hub" / "data" / f"train-0000{number}-of-00002.parquet"
        pq.write_table(pa.Table.from_pylist(rows, pa.Table.from_pylist(ROWS).schema), file)
    return folder / "hub"


@pytest.mark.parametrize("write", [as_jsonl, as_parquet, as_saved_data_set, as_downloaded_data_set])
def test_personas_that_people_have_become_a_pool(tmp_path, write):
    out = tmp_path / "pool.jsonl"
    report = import_pool([str(write(tmp_path))], "profile", str(out), ["persona", "skills"])
    assert texts_of(out) == WHOLE
    assert (report.read, report.kept, report.repeated) == (4, 3, 1)
    lengths = report.characters
    assert (lengths["0"], lengths["0.5"], lengths["1"]) == (11, 15, 33)
    assert report.languages == {"latin": 2, "cyrillic": 1}


@pytest.mark.parametrize(("suffix", "delimiter"), [(".csv", ","), (".tsv", "\t")])
def test_tables_of_text_are_read_with_their_quotes_and_line_breaks(tmp_path, suffix, delimiter):
    source, out = tmp_path / f"personas{suffix}", tmp_path / "pool.jsonl"
    with source.open("w", encoding="utf-8-sig", newline="") as file:
        rows = csv.writer(file, delimiter=delimiter)
        rows.writerows([["name", "age"], ['Says "hi", often.\nLaughs.', 30], ["Sings.", 41]])
    import_pool([str(source)], "personality", str(out), ["name", "age"])
    assert texts_of(out) == ['Says "hi", often. Laughs. 30', "Sings. 41"]


@pytest.mark.parametrize(
    ("name", "data", "columns", "said"),
    [
        ("x.csv", b"a,b\n1,2\n", ["c"], r"x\.csv: no column c, expected one of a, b"),
        ("x.csv", b"a,b\n1,2\n", [], r"x\.csv:1: expected a JSON string"),
        ("x.csv", b"a\n\xff\n", ["a"], r"x\.csv: cannot be read"),
        ("x.parquet", b"none", ["a"], r"x\.parquet: cannot be read"),
        ("x.jsonl", b'{"a": "t"}\n{"b": "t"}\n', ["a"], r"x\.jsonl:2: no column a, expected .* b"),
        ("x.jsonl", b'{"a": {}}\n', ["a"], r"x\.jsonl:1: column a: expected text or a list"),
        ("x.jsonl", b'{"a": ""}\n', ["a"], r"x\.jsonl:1: .* an empty one"),
        ("x.jsonl", b'"text"\n', ["a"], r"x\.jsonl:1: expected a JSON object with these columns"),
        ("x.jsonl", b'{"a"\n', ["a"], r"x\.jsonl:1: "),
        ("x.csv", b"", ["a"], r"x\.csv: no columns there"),
        ("x.csv", b"a,b\n1,2\n3\n", ["a"], r"x\.csv:3: 1 cells, expected 2 as in the first line"),
        ("x.tsv", b"a\tb\n1\t2\t3\n", ["a"], r"x\.tsv:2: 3 cells, expected 2 as in the first"),
        ("x.csv", b"a\nSings, often\n", ["a"], r"x\.csv:2: 2 cells, expected 1"),
        ("x.csv", b"a,a\n1,2\n", ["a"], r"x\.csv: two columns a, expected one"),
        ("x.csv.bz2", bz2.compress(b"a,b\n1\n"), ["a"], r"x\.csv\.bz2:2: 1 cells, expected 2"),
        ("x.jsonl.xz", b'{"a": "t"}\n', ["a"], r"x\.jsonl\.xz: cannot be read"),
        ("x.jsonl.zip", b'{"a": "t"}\n', ["a"], r"x\.jsonl\.zip: cannot be read"),
        ("x.jsonl.bz2", b'{"a": "t"}\n', ["a"], r"x\.jsonl\.bz2: cannot be read"),
        (
            "x.jsonl.gz",
            gzip.compress(bytes(99), mtime=0)[:-9],
            ["a"],
            r"x\.jsonl\.gz: cannot be read",
        ),
        ("x.csv.xz", lzma.compress(bytes(9999))[:60], ["a"], r"x\.csv\.xz: cannot be read"),
        ("x.jsonl.zst", b"any", ["a"], r"x\.jsonl\.zst: cannot be unpacked here"),
        ("x.json", b'[{"a": "t"} {"a": "u"}]', ["a"], r"x\.json: element 1 of the array: broken"),
        ("x.json", b'[{"a": "t"},]', ["a"], r"x\.json: element 2 of the array: broken"),
        ("x.json", b'[{"a": "t"}', ["a"], r"x\.json: element 1 of the array: broken"),
        ("x.json", b'[,{"a": "t"}]', ["a"], r"x\.json: element 1 of the array: broken"),
        ("x.json", b'[{"a": "t"}] [', ["a"], r"x\.json: text behind the end of the array"),
        ("x.json", b"[" * 9999, ["a"], r"x\.json: element 1 of the array: broken JSON \(nested"),
    ],
)
def test_rows_that_are_not_of_the_form_are_named(tmp_path, name, data, columns, said):
    (tmp_path / name).write_bytes(data)
    out = tmp_path / "pool.jsonl"
    with pytest.raises(UserError, match=said):
        import_pool([str(tmp_path / name)], "profile", str(out), columns)
    assert not out.exists()


def test_a_folder_without_a_data_set_is_named(tmp_path):
    with pytest.raises(UserError, match="no data set there"):
        import_pool([str(tmp_path)], "profile", str(tmp_path / "pool.jsonl"), ["a"])


def test_many_rows_are_not_held_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(found, "_SAMPLE", 100)
    source = tmp_path / "many.parquet"
    text = "word" * 500  # two kilobytes each
    with pq.ParquetWriter(source, pa.schema([("persona", pa.string())])) as writer:
        for start in range(0, 20_000, 2_000):
            texts = [f"{text} {number}" for number in range(start, start + 2_000)]
            writer.write_table(pa.table({"persona": texts}))
    tracemalloc.start()
    report = import_pool([str(source)], "profile", str(tmp_path / "pool.jsonl"), ["persona"])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (report.kept, report.examined) == (20_000, 100)
    assert peak < 20 << 20


def test_both_pools_come_from_one_file_and_keep_the_ids(tmp_path):
    reports = import_pools(
        [str(as_parquet(tmp_path))], str(tmp_path / "out"), Columns(["persona"], ["skills"], "id")
    )
    assert texts_of(tmp_path / "out" / "personalities.jsonl") == ["Can swim. Reads maps."]
    profiles = read_pool_files([str(tmp_path / "out" / "profiles.jsonl")])
    assert [entry.given_id for entry in profiles] == ["a", "b", "c"]
    assert reports["personality"].read == 2


def test_whole_personas_are_read_back(tmp_path):
    out = tmp_path / "personas.jsonl"
    columns = Columns(["persona", "age"], ["skills"], "id")
    report = import_personas([str(as_jsonl(tmp_path))], str(out), columns)
    assert [tuple(persona) for persona in read_personas([str(out)])] == [
        ("Sells fish. 30", "Can swim. Reads maps.", "a"),
        ("Räumt gern auf. 41", "", "b"),
        ("Любит море. 52", "", "c"),
    ]
    assert (report.read, report.kept, report.off_topic) == (4, 3, None)


def test_one_id_of_two_texts_is_refused(tmp_path):
    source = tmp_path / "x.jsonl"
    source.write_text('{"id": 1, "t": "One."}\n{"id": 1, "t": "Two."}\n')
    with pytest.raises(UserError, match="id 1: two different texts"):
        import_pool([str(source)], "profile", str(tmp_path / "out"), ["t"], "id")


@pytest.mark.parametrize("packed", [False, True])
def test_an_array_of_objects_is_read_element_by_element(tmp_path, monkeypatch, packed):
    monkeypatch.setattr(records, "_CHUNK", 7)
    name = "x.json.gz" if packed else "x.json"
    data = json.dumps(ROWS, ensure_ascii=False, indent=1).encode("utf-8-sig")
    (tmp_path / name).write_bytes(gzip.compress(data) if packed else data)
    out = tmp_path / "pool.jsonl"
    import_pool([str(tmp_path / name)], "profile", str(out), ["persona", "skills"])
    assert texts_of(out) == WHOLE


def test_a_broken_array_is_named_by_its_element(tmp_path):
    (tmp_path / "x.json").write_text('[{"a": "one"}, {"a": ')
    with pytest.raises(UserError, match=r"x\.json: element 2 of the array: broken JSON"):
        import_pool([str(tmp_path / "x.json")], "profile", str(tmp_path / "out"), ["a"])


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.fixed_dictionaries({"a": TEXTS, "b": st.lists(TEXTS)}), min_size=1),
    chunk=st.integers(1, 50),
)
def test_every_form_of_file_says_the_same(tmp_path_factory, rows, chunk):
    folder = tmp_path_factory.mktemp("forms")
    (folder / "x.json").write_text(json.dumps(rows))
    (folder / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pq.write_table(pa.Table.from_pylist(rows), folder / "x.parquet")
    said = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(records, "_CHUNK", chunk)
        for suffix in ("json", "jsonl", "parquet"):
            read = records.read_records(str(folder / f"x.{suffix}"), ["a"], ["b"])
            said.append([row for _, row in read])
    assert said == [rows] * 3


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("She works in the harbor and keeps bees.", "en"),
        ("Er arbeitet nicht gern und liest mit seiner Tochter.", "de"),
        ("Elle vit dans une maison avec les enfants.", "fr"),
        ("Она любит море и не пьёт чай.", "ru"),
        ("彼女は海が好きです。", "ja"),
        ("她喜欢大海。", "zh"),
        ("Bergsteigerin", "latin"),
        ("42", "none"),
    ],
)
def test_languages_are_told_by_script_and_common_words(text, language):
    assert language_of(text) == language


def test_near_repeats_are_counted_and_others_are_not():
    words = [f"word{number}" for number in range(400)]
    draw = random.Random(1)
    near = far = 0
    for number in range(200):
        repeats = Repeats()
        base = draw.sample(words, 60)
        assert not repeats.nearly_seen(" ".join(base))
        near += repeats.nearly_seen(" ".join([*base[:58], f"new{number}"]))
        far += repeats.nearly_seen(" ".join(draw.sample(words, 60)))
    assert near > 180
    assert far == 0


@given(values=st.lists(st.integers(0, (1 << 64) - 1)))
def test_hashes_know_what_they_have_seen(values):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("aloe.personas.duplicates._UNSORTED", 4)
        seen, known = Hashes(), set()
        for value in [*values, *values]:
            assert seen.add(value) == (value not in known)
            known.add(value)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (pa.array([b"\xff\xfe"]), "got bytes"),
        (pa.array([b"\x01\x02" * 8], pa.binary(16)), "got bytes with control characters"),
        (pa.array([[("k", "v")]], pa.map_(pa.string(), pa.string())), "got tuple"),
        (pa.array([{"a": "x"}]), "got dict"),
        (pa.array([True]), "got bool"),
        (pa.array([[True]]), "got bool"),
        (pa.array([0], pa.date32()), "got date"),
        (pa.array([float("inf")]), "got float"),
    ],
)
def test_values_that_are_no_text_are_named_by_their_row(tmp_path, values, said):
    source, out = tmp_path / "x.parquet", str(tmp_path / "out.jsonl")
    pq.write_table(pa.table({"a": values, "text": ["Sings."]}), source)
    with pytest.raises(UserError, match=rf"x\.parquet:row 1: column a: expected .*{said}"):
        import_personas([str(source)], out, Columns(["text", "a"]))
    with pytest.raises(UserError, match=r"x\.parquet:row 1: no id in a, expected text or a number"):
        import_personas([str(source)], out, Columns(["text"], [], "a"))


def test_numbers_are_written_out_bytes_are_text_and_what_is_no_number_is_nothing(tmp_path):
    source, out = tmp_path / "x.parquet", str(tmp_path / "out.jsonl")
    columns = {"a": ["Sings.", "Cooks."], "b": [float("nan"), 1.5], "c": ["caf\xe9".encode(), b"x"]}
    pq.write_table(pa.table(columns | {"id": [7, 8]}), source)
    import_personas([str(source)], out, Columns(["a", "b", "c"], [], "id"))
    said = [(persona.profile, persona.given_id) for persona in read_personas([out])]
    assert said == [("Sings. caf\xe9", "7"), ("Cooks. 1.5 x", "8")]
    (tmp_path / "nan.jsonl").write_text('{"id": NaN, "profile": "Sings.", "personality": NaN}\n')
    [persona] = read_personas([str(tmp_path / "nan.jsonl")])
    assert tuple(persona) == ("Sings.", "", None)


def packed(data: bytes, how: str) -> bytes:
    if how == "zip":
        sink = io.BytesIO()
        with zipfile.ZipFile(sink, "w") as file:
            file.writestr("inside", data)
        return sink.getvalue()
    return {"gz": gzip, "bz2": bz2, "xz": lzma}[how].compress(data)


FORMS = {
    "csv": b"a,b\nOne.,1\nTwo.,2\n",
    "tsv": b"a\tb\nOne.\t1\nTwo.\t2\n",
    "jsonl": b'{"a": "One.", "b": 1}\n{"a": "Two.", "b": 2}\n',
    "json": b'[{"a": "One.", "b": 1}, {"a": "Two.", "b": 2}]',
}


@pytest.mark.parametrize("how", ["gz", "bz2", "xz", "zip"])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_may_be_compressed_alone_or_in_a_folder(tmp_path, form, how):
    folder = tmp_path / "hub"
    (folder / "data").mkdir(parents=True)
    (folder / ".cache").mkdir()
    (folder / ".cache" / "x.parquet").write_text("of the hub's own")
    for name in ("dataset_infos.json", "dataset_info.json", "README.md"):
        (folder / name).write_text("{}")
    file = folder / "data" / f"train.{form.upper()}.{how}"
    file.write_bytes(packed(FORMS[form], how))
    for source in (file, folder):
        import_pool([str(source)], "profile", str(tmp_path / "out.jsonl"), ["a"])
        assert texts_of(tmp_path / "out.jsonl") == ["One.", "Two."]


@pytest.mark.parametrize("state", ["{}", "[]", "no JSON", '{"_data_files": 3}', "[" * 9999])
def test_a_state_json_of_somebody_else_is_passed_over(tmp_path, state):
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "state.json").write_text(state)
    (tmp_path / "hub" / "train.json").write_bytes(FORMS["json"])
    import_pool([str(tmp_path / "hub")], "profile", str(tmp_path / "out.jsonl"), ["a"])
    assert texts_of(tmp_path / "out.jsonl") == ["One.", "Two."]


def test_a_cell_may_be_long(tmp_path):
    (tmp_path / "x.csv").write_text("a\n" + "word " * 100_000 + "\n")
    import_pool([str(tmp_path / "x.csv")], "profile", str(tmp_path / "out.jsonl"), ["a"])
    assert [len(text) for text in texts_of(tmp_path / "out.jsonl")] == [499_999]


def test_names_of_columns_may_hold_dots(tmp_path):
    pq.write_table(pa.table({"a": ["One."], "a.b": ["Two."]}), tmp_path / "x.parquet")
    for name, text in (("a", "One."), ("a.b", "Two.")):
        import_pool([str(tmp_path / "x.parquet")], "profile", str(tmp_path / "out"), [name])
        assert texts_of(tmp_path / "out") == [text]
