"""Arrow schemas of everything that one stage writes and another reads.

A table's schema carries ``aloe.table`` and ``aloe.version`` in its metadata, and so does every
Parquet file. A change of columns raises VERSION: a file of another version is refused by name.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pyarrow as pa

from aloe.errors import UserError

VERSION = "6"

USAGE_FIELDS = [
    pa.field("prompt_tokens", pa.int64()),
    pa.field("cached_tokens", pa.int64()),
    pa.field("reusable_tokens", pa.int64()),
    pa.field("completion_tokens", pa.int64()),
    pa.field("seconds", pa.float64()),
    pa.field("cost_usd", pa.float64()),
    pa.field("replaced", pa.int64()),
]
"""What a call cost, see `aloe.engines.Completion`; ``replaced`` counts characters."""

CALL = pa.struct(
    [
        pa.field("role", pa.string()),
        pa.field("model", pa.string()),
        pa.field("finish_reason", pa.string()),
        pa.field("tries", pa.int32()),
        *USAGE_FIELDS,
    ]
)
"""One answered call; usage includes the tries that were thrown away."""

MESSAGES = pa.list_(pa.struct([pa.field("role", pa.string()), pa.field("content", pa.string())]))


def _table(name: str, fields: list[tuple[str, pa.DataType]]) -> pa.Schema:
    return pa.schema(
        [pa.field(key, kind) for key, kind in fields],
        metadata={"aloe.table": name, "aloe.version": VERSION},
    )


POOL = _table(
    "pool",
    [
        ("entry_id", pa.string()),
        ("pool", pa.string()),  # profile | personality
        ("text", pa.string()),
        ("source", pa.string()),  # seed | file | model
        ("round", pa.int32()),  # -1 for seeds and files
        ("similarity", pa.float32()),  # highest cosine to the pool when it joined
        ("heldout", pa.bool_()),
        ("embedding", pa.list_(pa.float32())),
    ],
)

ROUNDS = _table(
    "rounds",
    [
        ("pool", pa.string()),  # profile | personality
        ("round", pa.int32()),  # -1 for seeds (request 0) and files (request 1)
        ("request", pa.int32()),
        (
            "candidates",
            pa.list_(
                pa.struct(
                    [
                        pa.field("text", pa.string()),
                        pa.field("verdict", pa.string()),  # see aloe.personas.writing.Verdict
                        # Null if it was not compared; of a refused text one over the threshold.
                        pa.field("similarity", pa.float32()),
                        pa.field("embedding", pa.list_(pa.float32())),  # null if not accepted
                    ]
                )
            ),
        ),
        ("error_kind", pa.string()),  # null if the request was answered
        ("error_message", pa.string()),
        ("calls", pa.list_(CALL)),
    ],
)
"""One row per request to the writer: what it answered and what became of each candidate."""

PERSONAS = _table(
    "personas",
    [
        ("persona_id", pa.string()),
        ("profile_id", pa.string()),
        ("personality_id", pa.string()),
        ("profile", pa.string()),
        ("personality", pa.string()),
        ("preferences", pa.list_(pa.string())),  # kinds of aloe.verifiable
        ("twin_id", pa.string()),  # the same of both twins; null without
        ("split", pa.string()),  # train | validation | benchmark
    ],
)

NODES = _table(
    "nodes",
    [
        ("tree_id", pa.string()),
        ("node_id", pa.string()),
        ("parent_id", pa.string()),  # null for the first user message
        ("turn", pa.int32()),  # 1..K
        ("branch", pa.int64()),  # 1 is the root; branch b goes on as 2b (spine) and 2b + 1
        ("role", pa.string()),  # user | guided | unguided
        ("sample", pa.int32()),  # 0..n-1 among the replies of one role; null for user nodes
        ("history", MESSAGES),  # of a tree's first user node: what was said before, by others
        ("text", pa.string()),  # as it was said
        ("reasoning", pa.string()),  # what was thought before; null where nothing was
        ("finish_reason", pa.string()),  # stop | length | stop_text; see aloe.engines.Completion
        ("on_spine", pa.bool_()),
        ("preferred", pa.bool_()),  # null for user nodes
        ("met", pa.float32()),  # share of what was hinted at so far that it meets; see select
        ("selected", pa.bool_()),  # among the best, and nothing that was hinted at is missed
        ("judge_probability", pa.float32()),  # P(this reply preferred), mean of both orders
        ("judge_shown_first", pa.float32()),  # P(this reply preferred) when it is shown first
        ("judge_agrees", pa.bool_()),  # both orders prefer the same reply
        ("induced_profile", pa.string()),  # on user nodes; null when nothing was revealed
        ("induced_personality", pa.string()),
        ("hint", pa.string()),  # on user nodes: kind that a planned user hints at; null if none
        ("persona_id", pa.string()),
        ("profile", pa.string()),
        ("personality", pa.string()),
        ("preferences", pa.list_(pa.string())),
        ("twin_id", pa.string()),
        ("split", pa.string()),
        ("seed", pa.int64()),
        ("fingerprint", pa.string()),
        ("calls", pa.list_(CALL)),
    ],
)

CONVERSATIONS = _table(
    "conversations",
    [
        ("conversation_id", pa.string()),
        ("persona_id", pa.string()),  # null if it names none
        ("messages", MESSAGES),
    ],
)
"""Conversations that are given, from which trees go on."""

STARTS = _table("starts", [("conversation", pa.int64())])
"""One row per tree: the row of its conversation, -1 if it has none."""

ERRORS = _table(
    "errors",
    [
        ("stage", pa.string()),
        ("item_id", pa.string()),  # tree, case or request
        ("persona_id", pa.string()),
        ("turn", pa.int32()),
        ("branch", pa.int64()),  # of a tree, which ends there; null elsewhere
        ("role", pa.string()),
        ("kind", pa.string()),  # class of the error; context: no room for a further turn
        ("message", pa.string()),
        ("calls", pa.list_(CALL)),
    ],
)

SFT = _table(
    "sft",
    [
        ("row_id", pa.string()),
        ("tree_id", pa.string()),
        ("persona_id", pa.string()),
        ("split", pa.string()),
        ("turn", pa.int32()),
        ("prompt", MESSAGES),  # system, then the true history, ending with the user
        ("response", pa.string()),
        ("reasoning", pa.string()),
        ("ended", pa.bool_()),  # the reply said its end of turn; if not, no loss has one
    ],
)

PAIRS = _table(
    "pairs",
    [
        ("pair_id", pa.string()),
        ("tree_id", pa.string()),
        ("persona_id", pa.string()),
        ("split", pa.string()),
        ("turn", pa.int32()),
        ("prompt", MESSAGES),
        ("preferred", pa.string()),
        ("rejected", pa.string()),
        ("preferred_reasoning", pa.string()),
        ("rejected_reasoning", pa.string()),
        ("preferred_ended", pa.bool_()),
        ("rejected_ended", pa.bool_()),
        ("preferred_role", pa.string()),  # guided | unguided
        ("probability", pa.float32()),  # judge's P(preferred)
        ("judge_agrees", pa.bool_()),
    ],
)

PROMPTS = _table(
    "prompts",
    [
        ("prompt_id", pa.string()),
        ("persona_id", pa.string()),
        ("split", pa.string()),
        ("profile", pa.string()),
        ("personality", pa.string()),
        ("preferences", pa.list_(pa.string())),
        ("twin_id", pa.string()),
        ("prompt", MESSAGES),  # system and the first user message
    ],
)

SCORES = _table(
    "scores",
    [
        ("case_id", pa.string()),
        ("policy", pa.string()),
        ("persona_id", pa.string()),
        ("turn", pa.int32()),
        ("user", pa.string()),
        ("reply", pa.string()),
        ("reasoning", pa.string()),  # null where nothing was thought
        ("finish_reason", pa.string()),
        ("score", pa.float32()),  # expected value over 1..5
        ("probabilities", pa.list_(pa.float32())),  # of 1..5, sums to 1
        ("calls", pa.list_(CALL)),
    ],
)

GIVEN = _table(
    "given",
    [
        ("case_id", pa.string()),
        ("conversation_id", pa.string()),
        ("persona_id", pa.string()),
        ("profile", pa.string()),
        ("personality", pa.string()),
        ("preferences", pa.list_(pa.string())),
        ("messages", MESSAGES),
    ],
)
"""Conversations that are given to be judged, each with its user."""

REFERENCE = _table(
    "reference",
    [
        ("pair_id", pa.string()),
        ("checkpoint", pa.string()),  # aloe.training.checkpoint.fingerprint
        ("tokens", pa.string()),  # hash of the token ids of prompt and both replies
        ("preferred", pa.float64()),  # summed log-prob of the reply
        ("rejected", pa.float64()),
    ],
)
"""What a frozen reference gave each reply of a pair."""

DIALOGUES = _table(
    "dialogues",
    [
        ("step", pa.int32()),  # updates done
        ("dialogue", pa.int32()),
        ("persona_id", pa.string()),
        ("profile", pa.string()),
        ("personality", pa.string()),
        ("preferences", pa.list_(pa.string())),
        ("twin_id", pa.string()),
        ("turn", pa.int32()),
        ("user", pa.string()),
        ("reply", pa.string()),
        ("reward", pa.float64()),  # weighted sum
        ("reward_verifiable", pa.float64()),  # null if it is not asked
        ("reward_judge", pa.float64()),
        ("reward_model", pa.float64()),
    ],
)
"""Dialogues of a policy in reinforcement learning with held-out personas."""

METRICS = _table(
    "metrics",
    [
        ("stage", pa.string()),  # sft | reward | dpo | ppo
        ("split", pa.string()),  # train | validation
        ("step", pa.int32()),  # optimizer steps done
        ("name", pa.string()),
        ("value", pa.float64()),
    ],
)


def check_version(schema: pa.Schema, expected: pa.Schema, source: str) -> None:
    """Refuse a file of another table or schema version, or without all of its columns.

    Raises:
        UserError: naming the file, what it holds and what was expected.
    """
    found = schema.metadata or {}
    want = expected.metadata
    for key in (b"aloe.table", b"aloe.version"):
        if found.get(key) != want[key]:
            have = found.get(key, b"none").decode(errors="replace")
            raise UserError(f"{source}: {key.decode()} is {have}, expected {want[key].decode()}")
    for field in expected:
        if field.name not in schema.names:
            raise UserError(f"{source}: no column {field.name}, expected one; the file is broken")
        kind = schema.field(field.name).type
        if kind != field.type:
            raise UserError(f"{source}: column {field.name} is {kind}, expected {field.type}")


def stable_id(*parts: Any) -> str:
    """16 hex digits that depend on the JSON form of ``parts`` alone, on any machine."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def derive_seed(*parts: Any) -> int:
    """A seed in [0, 2^31) for the sampler that ``parts`` name."""
    return int(stable_id(*parts), 16) % (1 << 31)
