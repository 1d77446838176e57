"""What was said passes through all stages, the page and all exports as it is, in any script."""

import asyncio
import json
import math
from html.parser import HTMLParser

import pyarrow.parquet as pq
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from report_run import report_config

from aloe.config import DialogueConfig, EvaluationConfig
from aloe.dialogue.log import read_log, write_log
from aloe.dialogue.parts import write_part
from aloe.dialogue.tree import Tree, TreeSeed, grow_tree
from aloe.engines import Completion
from aloe.engines.base import Load
from aloe.evaluation.case import Case, play_case
from aloe.preferences import FORMATS, build_preferences, export_run
from aloe.report import write_report
from aloe.roles import Persona
from aloe.schema import PAIRS, SCORES, SFT
from aloe.storage import Manifest, Store

ROLES = ("user", "inducer", "guided", "unguided", "judge", "policy")
SPLITS = ("train", "train", "validation")
SHAPE = DialogueConfig(turns=2)
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1).filter(
    lambda text: text.strip()
)
KNOWN = [
    "你好。\r\n\r\n这是一个列表：\n1. 第一\n2. 第二",
    "مرحبا، كيف حالك؟ <b>&amp;</b>",
    "नमस्ते। आप कैसे हैं?\u2028\u2029 \ufeff",
    "👩‍👩‍👧 e\u0301 </script><!-- \x0b\x1c\x85 {{ 1 }} {% x %}",
    '"quoted", 2*3*4 is *24*\t\\u0041 \\n',
]


class Saying:
    """Says one text after the other, to whoever asks."""

    def __init__(self, texts):
        self.texts, self.asked, self.judged = texts, 0, 0

    async def complete(self, request):
        if request.choices:
            self.judged += 1  # never the same twice, so that nothing is a tie
            first, *others = request.choices
            share = 0.9 if self.judged % 2 else 0.4
            logprobs = dict.fromkeys(others, math.log((1 - share) / len(others)))
            logprobs[first] = math.log(share)
            return Completion(first, "m", "stop", 1, 0, 1, 0.0, choice_logprobs=logprobs)
        text = self.texts[self.asked % len(self.texts)]
        self.asked += 1
        if request.json_schema is not None:
            text = json.dumps({"profile": [text], "personality": []})
        return Completion(text, "m", "stop", 1, 0, 1, 0.0)

    def load(self):
        return Load(0, 0, 8)

    def release(self, conversation):
        pass

    def close(self):
        pass


class Said(HTMLParser):
    """Collects what a page shows as said."""

    def __init__(self):
        super().__init__()
        self.said, self.inside = [], False

    def handle_starttag(self, tag, attributes):
        self.inside = tag == "p" and ("class", "said") in attributes
        if self.inside:
            self.said.append("")

    def handle_endtag(self, tag):
        self.inside = self.inside and tag != "p"

    def handle_data(self, data):
        if self.inside:
            self.said[-1] += data


@settings(
    deadline=None, max_examples=15, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)
@given(texts=st.lists(TEXT, min_size=2, max_size=7, unique=True))
@example(texts=KNOWN)
def test_texts_of_any_script_pass_through(tmp_path_factory, texts):
    folder = tmp_path_factory.mktemp("texts")
    store, config = Store(str(folder / "run")), report_config(str(folder / "run"))
    engine = Saying(texts)
    trees = []
    for number, split in enumerate(SPLITS):
        persona = Persona(f"p{number}", texts[0], texts[-1])
        start = TreeSeed(f"t{number}", persona, split, 0, "f")
        trees.append(asyncio.run(grow_tree(start, dict.fromkeys(ROLES, engine), SHAPE)))
        assert trees[-1].ends == []
    nodes = [row for tree in trees for row in tree.rows]
    said = [row for row in nodes if row["role"] != "user"]
    assert {row["text"] for row in said} <= set(texts)

    write_log(store, "00000000", 0, nodes, [])
    kept = read_log(store, "00000000").turns
    assert [row["text"] for tree in trees for row in kept[tree.rows[0]["tree_id"]]] == [
        row["text"] for row in nodes
    ]
    write_part(store, "00000000", [Tree(rows, []) for rows in kept.values()], SHAPE)
    shape = SHAPE.model_dump(mode="json", exclude={"actors"})
    made = {"roles": {role: {"backend": "scripted"} for role in ROLES[:-1]}, "dialogue": shape}
    Manifest("dialogue", made, "f", True, counts={"trees": len(trees)}).save(store)
    build_preferences(config, store)

    answers = {row["text"] for row in said if row["preferred"]}
    asked = {row["text"] for row in nodes if row["role"] == "user"}
    sft = store.read_table("preferences/sft.parquet", SFT).to_pylist()
    pairs = store.read_table("preferences/pairs.parquet", PAIRS).to_pylist()
    assert {row["response"] for row in sft} == answers
    assert {row["preferred"] for row in pairs} == answers
    for row in sft:
        heard = {turn["content"] for turn in row["prompt"] if turn["role"] != "system"}
        assert heard <= asked | set(texts)

    exported = {kind: Store(str(folder / kind)) for kind in FORMATS}
    for kind, target in exported.items():
        export_run(store, kind, target)
    for kind, key in (("openrlhf", "response"), ("trl", "completion")):
        lines = rows_of(exported[kind], "sft")
        assert [line[key][0]["content"] for line in lines] == in_splits(sft, "response")
        assert all(line["ended"] for line in lines)
        lines = rows_of(exported[kind], "dpo")
        assert [line["chosen"][0]["content"] for line in lines] == in_splits(pairs, "preferred")
    published = [
        turn["assistant"]["preferred"]
        for split in ("train", "validation")
        for line in jsonl(exported["aloe"], f"{split}.jsonl")
        for turn in line["conversations"]
    ]
    assert set(published) == answers
    for split in ("train", "validation"):
        table = pq.read_table(folder / "hf" / "sft" / f"{split}.parquet")
        assert table["response"].to_pylist() == [
            row["response"] for row in sft if row["split"] == split
        ]

    write_report(config, store)
    page = Said()
    page.feed(store.read_text("report/index.html"))
    shown = {row["text"] for row in nodes if row["role"] == "user" or row["text"] in page.said}
    assert {row["text"] for row in nodes} == shown

    case = Case("c", "policy", Persona("p", texts[0], texts[-1]), 0)
    rows = asyncio.run(play_case(case, dict.fromkeys(ROLES, engine), EvaluationConfig(turns=2)))
    store.write_table("evaluation/scores/c.parquet", rows, SCORES)
    scores = store.read_table("evaluation/scores", SCORES)
    assert scores["reply"].to_pylist() == [row["reply"] for row in rows]
    assert set(scores["reply"].to_pylist()) <= set(texts)


def jsonl(store, name):
    if not store.exists(name):
        return []
    return [json.loads(line) for line in store.read_bytes(name).decode().split("\n") if line]


def rows_of(store, name):
    return [*jsonl(store, f"{name}_train.jsonl"), *jsonl(store, f"{name}_validation.jsonl")]


def in_splits(rows, column):
    return [
        row[column] for split in ("train", "validation") for row in rows if row["split"] == split
    ]
