"""Rows become the tokens that an engine sees: prompt, reply, end of turn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AddedToken

from aloe.chat import ChatFormat
from aloe.errors import UserError
from aloe.schema import PAIRS, SFT
from aloe.storage import Store
from aloe.training.data import Reply, count_rows, encode, read_pairs, read_sft, sample

END = 0


class Words:
    """A tokenizer with one token per word and a chat template of one word per role."""

    name_or_path = "words"
    eos_token_id = 9

    def __init__(
        self, template: str = "{role} {content} <end>", specials: tuple[str, ...] = ("<end>",)
    ) -> None:
        self.chat_template = template
        self.words = {"<end>": END}
        self.all_special_ids = [self.words[word] for word in specials]
        self.added_tokens_decoder = {END: AddedToken("<end>", special=True)} if specials else {}

    def __call__(self, text: str, add_special_tokens: bool) -> dict[str, list[int]]:
        return {"input_ids": [self.words.setdefault(w, len(self.words)) for w in text.split()]}

    def apply_chat_template(
        self,
        messages: list[dict[str, str]],
        tokenize: bool,
        add_generation_prompt: bool = False,
        **_: bool,
    ) -> str:
        text = " ".join(self.chat_template.format(**message) for message in messages)
        return text + " assistant" * add_generation_prompt

    def text(self, ids: Any) -> str:
        names = {number: word for word, number in self.words.items()}
        return " ".join(names[i] for i in ids)


def said(*texts: str) -> list[Reply]:
    return [Reply(text) for text in texts]


def chat(turns: int, words: int = 1) -> list[dict[str, str]]:
    messages = [{"role": "system", "content": "rules"}]
    for turn in range(turns):
        messages.append({"role": "user", "content": " ".join([f"question{turn}"] * words)})
        messages.append({"role": "assistant", "content": f"answer{turn}"})
    return messages[:-1]


def test_nobody_ends_a_message_by_saying_so():
    tokenizer = Words()
    prompt = [*chat(2)[:-1], {"role": "user", "content": "mine <end> assistant no <end>"}]
    row, _ = encode(ChatFormat(tokenizer), prompt, said("yes <end> user never"), 100)
    assert tokenizer.text(row[0].ids) == (
        "system rules <end> user question0 <end> assistant answer0 <end> "
        "user mine assistant no <end> assistant yes user never <end>"
    )


def test_reply_follows_the_prompt_and_ends_its_turn():
    tokenizer = Words()
    row, dropped = encode(ChatFormat(tokenizer), chat(2), said("yes indeed"), 100)
    assert dropped == 0
    assert tokenizer.text(row[0].ids) == (
        "system rules <end> user question0 <end> assistant answer0 <end> "
        "user question1 <end> assistant yes indeed <end>"
    )
    assert tokenizer.text(row[0].ids[row[0].prompt_length :]) == "yes indeed <end>"


def test_both_replies_follow_the_same_prompt_even_when_one_is_long():
    tokenizer = Words()
    row, dropped = encode(ChatFormat(tokenizer), chat(3), said("short", "a much longer reply"), 20)
    short, long = row
    assert dropped == 1
    assert short.ids[: short.prompt_length] == long.ids[: long.prompt_length]
    assert len(long.ids) <= 20


def test_a_last_message_that_is_too_long_gives_nothing():
    assert encode(ChatFormat(Words()), chat(2, words=30), said("yes"), 20)[0] is None


@settings(deadline=None)
@given(st.integers(1, 6), st.integers(1, 4), st.integers(1, 5), st.integers(4, 80))
def test_shortening_keeps_system_and_last_user_message(turns, words, reply, max_len):
    tokenizer = Words()
    row, dropped = encode(
        ChatFormat(tokenizer), chat(turns, words), said(" ".join(["ok"] * reply)), max_len
    )
    if row is None:
        assert dropped == turns - 1
        return
    text = tokenizer.text(row[0].ids)
    assert len(row[0].ids) <= max_len
    assert text.startswith("system rules <end> user ")
    kept = [turn for turn in range(turns) if f"question{turn}" in text]
    assert kept == list(range(dropped, turns))
    assert text.endswith(" assistant " + "ok " * reply + "<end>")


def test_end_of_turn_is_what_the_template_writes():
    assert ChatFormat(Words()).end_of_turn == END


@pytest.mark.parametrize("words", [Words("{role} {content}"), Words(specials=())])
def test_end_of_turn_is_eos_where_the_template_writes_no_special_token(words):
    assert ChatFormat(words).end_of_turn == Words.eos_token_id


def test_a_checkpoint_without_chat_template_is_refused():
    with pytest.raises(UserError, match="words has no chat template"):
        ChatFormat(Words(template=""))


def sft_row(split: str, prompt: list[dict[str, str]]) -> dict[str, Any]:
    ids = {"reasoning": None, "row_id": "r", "tree_id": "t", "persona_id": "p", "turn": 1}
    return {**ids, "split": split, "prompt": prompt, "response": "yes", "ended": True}


def test_rows_are_counted_whatever_becomes_of_them(tmp_path: Path):
    store = Store(str(tmp_path))
    prompts = {"train": [chat(1), chat(4), chat(1, words=50)], "validation": [chat(1)]}
    rows = [sft_row(split, prompt) for split, many in prompts.items() for prompt in many]
    store.write_table("preferences/sft.parquet", rows, SFT)
    read = read_sft(store, ChatFormat(Words()), 20)
    assert {split: len(rows) for split, rows in read.splits.items()} == {
        "train": 2,
        "validation": 1,
    }
    assert read.counts["rows_train"] == 2
    assert read.counts["rows_train_shortened"] == 1
    assert read.counts["rows_train_too_long"] == 1
    assert read.remarks() == [
        "1 rows_train without their oldest turns",
        "1 rows_train left out: too long",
    ]


def test_a_split_in_which_nothing_fits_is_refused(tmp_path: Path):
    store = Store(str(tmp_path))
    rows = [sft_row("train", chat(1)), sft_row("validation", chat(1, words=50))]
    store.write_table("preferences/sft.parquet", rows, SFT)
    with pytest.raises(UserError, match="rows of split validation: none fits into max_len 20"):
        read_sft(store, ChatFormat(Words()), 20)


def test_a_row_that_the_template_refuses_is_named(tmp_path: Path):
    class Picky(Words):
        def apply_chat_template(self, messages, **options):
            if messages[-1]["content"] == "question2":
                raise ValueError("no third question")
            return super().apply_chat_template(messages, **options)

    store = Store(str(tmp_path))
    rows = [sft_row("train", chat(1)), sft_row("train", chat(3)), sft_row("validation", chat(1))]
    store.write_table("preferences/sft.parquet", rows, SFT)
    with pytest.raises(UserError, match=r"row_id r: the chat template refuses it .*third question"):
        read_sft(store, ChatFormat(Picky()), 100)


def test_pairs_hold_preferred_then_rejected(tmp_path: Path):
    store = Store(str(tmp_path))
    base = {"pair_id": "x", "tree_id": "t", "persona_id": "p", "turn": 1, "prompt": chat(1)}
    judged = {"preferred_role": "guided", "probability": 0.9, "judge_agrees": True}
    replies = {"preferred": "good", "rejected": "bad"}
    replies |= {"preferred_reasoning": None, "rejected_reasoning": None}
    replies |= {"preferred_ended": True, "rejected_ended": False}
    rows = [{**base, **judged, **replies, "split": split} for split in ("train", "validation")]
    store.write_table("preferences/pairs.parquet", rows, PAIRS)
    tokenizer = Words()
    ((preferred, rejected),) = read_pairs(store, ChatFormat(tokenizer), 50).splits["train"]
    assert tokenizer.text(preferred.ids).endswith("good <end>")
    assert tokenizer.text(rejected.ids).endswith("assistant bad")


def test_data_without_validation_rows_is_refused(tmp_path: Path):
    store = Store(str(tmp_path))
    store.write_table("preferences/sft.parquet", [sft_row("train", chat(1))], SFT)
    with pytest.raises(UserError, match="no row has split validation"):
        count_rows(store, "preferences/sft.parquet", SFT)


def test_sample_is_everything_in_a_small_run_and_seeded_in_a_large_one():
    assert sample(5, seed=1) == [0, 1, 2, 3, 4]
    large = sample(5000, seed=1)
    assert len(set(large)) == 1024
    assert large == sample(5000, seed=1) != sample(5000, seed=2)
