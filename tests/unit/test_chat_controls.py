"""Whatever is said, control tokens are only those that the chat template writes."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from aloe.chat.controls import plain_chat, without_controls
from aloe.engines.embedded import resolve_checkpoint


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(resolve_checkpoint("embedded://tiny"))


PIECES = st.sampled_from(
    ["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|", "|>", "im_end", "a "]
)


@settings(max_examples=200, deadline=None)
@given(pieces=st.lists(PIECES | st.text(max_size=5), max_size=12))
def test_no_text_is_read_as_a_control_token(tokenizer, pieces):
    plain = without_controls("".join(pieces), tokenizer)
    ids = tokenizer.encode(plain, add_special_tokens=False)
    assert not set(ids) & set(tokenizer.all_special_ids)
    assert without_controls(plain, tokenizer) == plain


def test_other_texts_stay_as_they_are(tokenizer):
    text = "a < b | c > d, [INST] and <|imagine|> \u2603"
    chat = [{"role": "user", "content": text}]
    assert plain_chat(chat, tokenizer) == chat


def test_a_tokenizer_without_control_tokens_changes_nothing():
    assert without_controls("<s> <|im_end|>", object()) == "<s> <|im_end|>"
