"""The writer's JSON schemas in the grammar compiler that vLLM uses."""

import json

import pytest
import xgrammar
from transformers import AutoTokenizer

from aloe.engines.embedded import resolve_checkpoint
from aloe.personas.lexicon import KINDS
from aloe.personas.openings import draw_openings
from aloe.personas.writing import answer_schema


@pytest.fixture(scope="module")
def compiler():
    tokenizer = AutoTokenizer.from_pretrained(resolve_checkpoint("embedded://tiny"))
    return xgrammar.GrammarCompiler(xgrammar.TokenizerInfo.from_huggingface(tokenizer))


def accepts(compiler, schema, answer):
    grammar = compiler.compile_json_schema(json.dumps(schema), any_whitespace=False)
    matcher = xgrammar.GrammarMatcher(grammar, terminate_without_stop_token=True)
    return matcher.accept_string(json.dumps(answer, ensure_ascii=False)) and matcher.is_terminated()


@pytest.mark.parametrize("kind", KINDS)
def test_openings_are_enforced(compiler, kind):
    openings = draw_openings(kind, 3)
    schema = answer_schema(kind, 1, openings)
    (plural,) = schema["properties"]
    full = [text if text.endswith(".") else f"{text} the old town." for text in openings]
    assert accepts(compiler, schema, {plural: [full]})
    assert not accepts(compiler, schema, {plural: [["Something else.", *full[1:]]]})
    assert not accepts(compiler, schema, {plural: [full[1:]]})


def test_free_sentences_are_counted(compiler):
    schema = answer_schema("profile", 2, [])
    sentences = ["Lives in a small town.", "Keeps bees, and sells honey in Łódź."] * 4
    assert accepts(compiler, schema, {"profiles": [sentences, sentences]})
    assert not accepts(compiler, schema, {"profiles": [sentences]})
    assert not accepts(compiler, schema, {"profiles": [sentences, sentences[:7]]})
