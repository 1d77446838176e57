"""From preference rows to token sequences, exactly as an engine would have seen and made them."""

from __future__ import annotations

import random
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import pyarrow as pa

from aloe.chat import ChatFormat, Message
from aloe.errors import TemplateRefused, UserError
from aloe.schema import PAIRS, SFT
from aloe.storage import Store

if TYPE_CHECKING:
    import torch

SFT_FILE = "preferences/sft.parquet"
PAIRS_FILE = "preferences/pairs.parquet"
SPLITS = ("train", "validation")
SAMPLE_ROWS = 1024
"""Training rows behind train_loss_before and train_loss_after; all of them in a small run."""

PROMPT, REPLY = 1, 2
"""Values of a row's attention mask; 0 is padding."""


@dataclass(frozen=True)
class Encoded:
    """One prompt with one reply."""

    ids: array[int]
    """Tokens of prompt and reply, and of its end of turn if it said one."""
    prompt_length: int
    """How many of them are the prompt; only the others are learned."""

    def tensor(self) -> torch.Tensor:
        """The tokens, int64 [tokens]."""
        import torch

        return torch.asarray(self.ids, dtype=torch.int32).long()  # a buffer is read as float32 else

    def mask(self) -> torch.Tensor:
        """Attention mask, int64 [tokens]: PROMPT, then REPLY."""
        import torch

        mask = torch.full((len(self.ids),), PROMPT)
        mask[self.prompt_length :] = REPLY
        return mask

    @property
    def reply_length(self) -> int:
        return len(self.ids) - self.prompt_length


class _Said(NamedTuple):
    """Columns of a reply."""

    text: str
    reasoning: str
    ended: str


_SAID = _Said("response", "reasoning", "ended")
_PAIR = tuple(
    _Said(which, f"{which}_reasoning", f"{which}_ended") for which in ("preferred", "rejected")
)
SFT_COLUMNS = ["row_id", "tree_id", "turn", "split", "prompt", *_SAID]
PAIR_COLUMNS = ["pair_id", "tree_id", "turn", "split", "prompt", *_PAIR[0], *_PAIR[1]]
"""What is read of each file."""

Row = tuple[Encoded, ...]
"""One `Encoded` per reply to the same prompt."""


@dataclass(frozen=True)
class Rows:
    """The rows of one file, by split."""

    splits: dict[str, list[Row]]
    row_ids: dict[str, list[str]]
    """Id of each of those rows, and of its tree."""
    tree_ids: dict[str, list[str]]
    turns: dict[str, list[int]]
    """Turn of each row in its dialogue, from 1."""
    counts: dict[str, int]
    """``<unit>_<split>``, of those ``_shortened``, and ``_too_long`` for those left out."""

    def remarks(self) -> list[str]:
        """A sentence for each count of rows that are not used as they are."""
        how = {"shortened": "without their oldest turns", "too_long": "left out: too long"}
        return [
            f"{number} {name.removesuffix(f'_{kind}')} {text}"
            for name, number in self.counts.items()
            for kind, text in how.items()
            if number and name.endswith(kind)
        ]


def count_rows(store: Store, file: str, schema: pa.Schema) -> Counter[str]:
    """Rows per split, without reading the texts.

    Raises:
        UserError: the file is missing, of another version, or has no row to train or validate on.
    """
    splits = store.read_table(file, schema, columns=["split"]).column("split").to_pylist()
    counts = Counter(splits)
    for split in SPLITS:
        if not counts[split]:
            raise UserError(f"{store.url(file)}: no row has split {split}, expected at least one")
    return counts


def read_sft(store: Store, chat: ChatFormat, max_len: int) -> Rows:
    """Rows of `aloe.schema.SFT`, one reply each.

    Raises:
        UserError: no row of a split fits into ``max_len`` tokens, or the chat template refuses one.
    """
    table = store.read_table(SFT_FILE, SFT, columns=SFT_COLUMNS)
    return _encode_rows(table, (_SAID,), chat, max_len, "rows")


def read_pairs(store: Store, chat: ChatFormat, max_len: int) -> Rows:
    """Rows of `aloe.schema.PAIRS`, two replies each: preferred, rejected.

    Raises:
        UserError: no row of a split fits into ``max_len`` tokens.
    """
    table = store.read_table(PAIRS_FILE, PAIRS, columns=PAIR_COLUMNS)
    return _encode_rows(table, _PAIR, chat, max_len, "pairs")


def sample(rows: int, seed: int) -> list[int]:
    """Which training rows the passes before and after training look at, at most SAMPLE_ROWS."""
    return sorted(random.Random(seed).sample(range(rows), min(rows, SAMPLE_ROWS)))


def _encode_rows(
    table: pa.Table, said: tuple[_Said, ...], chat: ChatFormat, max_len: int, unit: str
) -> Rows:
    rows: dict[str, list[Row]] = {split: [] for split in SPLITS}
    row_ids: dict[str, list[str]] = {split: [] for split in SPLITS}
    tree_ids: dict[str, list[str]] = {split: [] for split in SPLITS}
    turns: dict[str, list[int]] = {split: [] for split in SPLITS}
    counts: Counter[str] = Counter()
    for row in table.to_pylist():
        split = row["split"]
        replies = [
            Reply(row[each.text], row[each.ended], row[each.reasoning] or "") for each in said
        ]
        try:
            encoded, dropped = encode(chat, row["prompt"], replies, max_len)
        except TemplateRefused as error:
            which = f"{table.column_names[0]} {row[table.column_names[0]]}"
            raise UserError(f"{which}: the chat template refuses it ({error})") from error
        if encoded is None:
            counts[f"{unit}_{split}_too_long"] += 1
            continue
        rows[split].append(encoded)
        row_ids[split].append(row[table.column_names[0]])
        tree_ids[split].append(row["tree_id"])
        turns[split].append(row["turn"])
        counts[f"{unit}_{split}"] += 1
        counts[f"{unit}_{split}_shortened"] += dropped > 0
    for split in SPLITS:
        if not rows[split]:
            raise UserError(f"{unit} of split {split}: none fits into max_len {max_len} tokens")
    return Rows(rows, row_ids, tree_ids, turns, dict(counts))


class Reply(NamedTuple):
    """What was said to a prompt."""

    text: str
    ended: bool = True
    """Whether it ended its turn itself."""
    reasoning: str = ""


def encode(
    chat: ChatFormat, prompt: Sequence[Message], replies: Sequence[Reply], max_len: int
) -> tuple[Row | None, int]:
    """Tokens of a prompt with each of its replies, all after the same prompt.

    A prompt that is too long loses its oldest turns, never the system message or the last message
    of the user.

    Returns:
        One `Encoded` per reply, or None when even the last message alone is too long; and the
        number of turns that were dropped.
    """
    texts, ended, reasonings = zip(*replies, strict=True)
    messages, dropped = list(prompt), 0
    while True:
        head, tails = chat.head_and_tails(messages, texts, ended, reasonings)
        if len(head) + max(map(len, tails)) <= max_len:
            return tuple(Encoded(array("i", head + tail), len(head)) for tail in tails), dropped
        shorter = without_oldest_turn(messages)
        if shorter is None:
            return None, dropped
        messages, dropped = shorter, dropped + 1


def without_oldest_turn(messages: list[Message]) -> list[Message] | None:
    """The prompt without its first user message and what answered it; None if no other is left."""
    users = [i for i, message in enumerate(messages) if message["role"] == "user"]
    if len(users) < 2:
        return None
    return messages[: users[0]] + messages[users[1] :]
