"""Stages that generate: personas, dialogue trees, training rows, benchmark cases, the report."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from aloe.config.section import Section
from aloe.config.speakers import Sampling
from aloe.verifiable import Part

_PARTS_PER_ACTOR = 8
"""Parts that every actor should get at least, so that they end at about the same time."""


PromptTexts = str | dict[str, str] | None
"""A folder of templates, or their texts by name, which it is read to (`aloe.prompt_folders`)."""


class ActorPool(Section):
    min: int = Field(1, ge=1)
    """Fewest actors that Ray Data keeps."""
    max: int = Field(1, ge=1)
    """Most actors that Ray Data starts."""
    num_cpus: float = Field(1.0, ge=0)
    """CPUs that one actor reserves."""
    num_gpus: float | None = Field(None, ge=0)
    """GPUs that one actor reserves; null counts its vLLM engines' tensor_parallel_size."""
    in_flight: int | None = Field(None, ge=1)
    """Trees, cases or requests that one actor has open at once; null: as many as the load of its
    engines allows."""


class PoolGrowth(Section):
    size: int = Field(ge=1)
    """Members at which growth stops, seeds included."""
    files: tuple[str, ...] = ()
    """Persona files (JSON string per line) that join the pool after the seeds."""


PreferenceKind = Literal[
    "short",
    "long",
    "asks",
    "asks_nothing",
    "exclaims",
    "calm",
    "emoji",
    "about_them",
    "own_stories",
    "never_self",
    "polite",
    "agrees",
    "caring",
    "figures",
    "formal",
    "casual",
    "picks_up",
]
"""Kinds of preferences that a program can check, see `aloe.verifiable`."""

PairName = Literal["question", "tone", "self", "length", "register"]
"""Pairs of opposite kinds, see `aloe.verifiable.PAIRS`."""


class VerifiableConfig(Section):
    count: int = Field(0, ge=0)
    """Checkable preferences that each persona holds; no two that contradict each other."""
    kinds: tuple[PreferenceKind, ...] = ()
    """Kinds to draw from; empty: all."""


class TwinsConfig(Section):
    count: int = Field(0, ge=0, le=5)
    """Pairs of opposite kinds of which each persona likes one; 0: no twins. Each persona is then
    two, which like the opposites and share all else: they stand and are drawn together."""
    pairs: tuple[PairName, ...] = ("question", "tone", "self", "length", "register")
    """Pairs to draw from: ask or not, exclaim or not, talk of oneself or not, 20 words or fewer,
    short forms such as it's or none."""
    hints: Literal["program", "model", "free"] = "program"
    """How the user hints at what a reply missed: in a program's words, in a model's words as a
    program plans it turn by turn, or as a model likes, told of the preferences alone."""

    @model_validator(mode="after")
    def _are_enough(self) -> TwinsConfig:
        if len(set(self.pairs)) != len(self.pairs):
            raise ValueError("pairs: one stands twice")
        if self.count > len(self.pairs):
            raise ValueError(f"count: {self.count} of {len(self.pairs)} pairs cannot be drawn")
        return self

    @property
    def planned(self) -> bool:
        """Whether a program plans what users hint at, turn by turn."""
        return self.count > 0 and self.hints != "free"


class PersonasConfig(Section):
    given: tuple[str, ...] = ()
    """Files of whole personas (`aloe personas import --kind persona`). They are taken as they are:
    no pool, no writer and no pairs."""
    heldout_personas: int = Field(100, ge=1)
    """Given personas kept apart for the benchmark; those that share a text with one of them are in
    no split."""
    writer: str | None = None
    """Model that writes new personas."""
    prompts: PromptTexts = None
    """Folder of Jinja templates for the writer, or their texts by file name; null: the built-in
    ones, `aloe/personas/prompts`."""
    seeds: str | None = None
    """File that both pools start with, rows with kind (profile or personality) and text: JSONL,
    CSV, Parquet or a Hugging Face folder. Null: the built-in seeds, which are English."""
    encoder: str = "embedded://minilm"
    """Encoder of the similarity filter: embedded://minilm or a sentence-transformers path."""
    profiles: PoolGrowth | None = None
    """Growth of the pool of everyday facts."""
    personalities: PoolGrowth | None = None
    """Growth of the pool of traits."""
    threshold: float = Field(0.6, ge=-1, le=1)
    """Highest cosine similarity to any member with which a candidate still joins the pool."""
    shown: int = Field(5, ge=1)
    """Random members that one request shows as examples."""
    asked: int = Field(20, ge=1)
    """New personas that one request asks for."""
    openings: bool = False
    """Fix the first words of each fact and trait by grammar: for writers too small for more."""
    tries: int = Field(3, ge=1)
    """Tries per request before it counts as failed."""
    requests_per_round: int = Field(1, ge=1)
    """Requests that see the same pool; their candidates are filtered together, in order."""
    max_rounds: int = Field(3000, ge=1)
    """Rounds after which growth stops in any case."""
    saturation_rounds: int = Field(10, ge=1)
    """Rounds over which saturation is looked at."""
    saturation_rate: float = Field(0.02, ge=0, le=1)
    """Growth is saturated when a smaller share of candidates was accepted over those rounds."""
    sampling: Sampling = Sampling(temperature=0.8, top_p=0.95, max_tokens=2048)
    """How the writer samples."""
    personalities_per_profile: int = Field(10, ge=1)
    """Personalities paired with each profile that is not held out."""
    max_personas: int | None = Field(None, ge=1)
    """Most personas kept for dialogue, drawn by seed; null keeps every pair or given one. Of twins
    it counts one."""
    heldout_profiles: int = Field(20, ge=1)
    """Profiles kept apart for the benchmark."""
    heldout_personalities: int = Field(5, ge=1)
    """Personalities kept apart for the benchmark; cases are all pairs of held-out ones."""
    verifiable: VerifiableConfig = VerifiableConfig()
    """Checkable preferences, drawn by seed and told in the personality."""
    twins: TwinsConfig = TwinsConfig()
    """Checkable preferences of which nothing suits everyone: a persona and its twin like the
    opposites. In place of verifiable."""
    actors: ActorPool = ActorPool()
    """Ray actors that hold the writer."""

    @property
    def checkable(self) -> bool:
        """Whether personas hold preferences that a program can check."""
        return self.verifiable.count > 0 or self.twins.count > 0

    @property
    def writers(self) -> list[str]:
        """Models of the stage: the writer, if there is one."""
        return [] if self.writer is None else [self.writer]

    @model_validator(mode="after")
    def _given_or_grown(self) -> PersonasConfig:
        grown = {
            name: getattr(self, name) is not None
            for name in ("writer", "profiles", "personalities")
        }
        for name, there in grown.items():
            if there and self.given:
                raise ValueError(f"given is set: expected no {name}, as no pool is grown")
            if not there and not self.given:
                raise ValueError(f"expected {name}, or given personas")
        return self

    @model_validator(mode="after")
    def _twins_or_others(self) -> PersonasConfig:
        if self.twins.count and self.verifiable.count:
            raise ValueError("twins: expected verifiable.count of 0, as twins hold kinds in pairs")
        return self

    @model_validator(mode="after")
    def _openings_need_one(self) -> PersonasConfig:
        if self.openings and self.asked != 1:
            raise ValueError("openings: needs asked: 1, as they are drawn for one persona")
        return self


class SelectConfig(Section):
    samples: int = Field(4, ge=2)
    """Replies that are sampled in each turn; the conversation goes on with one of them."""
    by: Literal["program"] = "program"
    """Who selects: the share of what has been hinted at so far that a reply meets."""
    guided: bool = True
    """Whether the replies are sampled with the inducer's notes (the teacher), or by the policy
    from the conversation alone."""
    slips: float = Field(0.0, ge=0, le=1)
    """Share of the turns that go on with any of the replies instead of one of the best, so that
    there is something to hint at, and to mend."""


class DialogueConfig(Section):
    prompts: PromptTexts = None
    """Folder of Jinja templates for user, inducer, replies and judge, in the evaluation and in PPO
    too, or their texts by file name; null: the built-in ones, `aloe/dialogue/prompts`."""
    start: tuple[str, ...] = ()
    """Files of conversations (ShareGPT, messages) that trees go on from. One goes with the persona
    that its persona_id names; where none names any, they are given out in order."""
    turns: int = Field(10, ge=1, le=63)
    """Turns in one tree."""
    tries: int = Field(3, ge=1)
    """Tries per call before the tree is given up and becomes a row in errors."""
    branching: Literal["spine", "both"] = "spine"
    """Which replies a conversation goes on with: one at random (the paper), or one of each role."""
    samples: int = Field(1, ge=1)
    """Replies per reply role and turn; guided reply i is judged against unguided reply i."""
    select: SelectConfig | None = None
    """Conversations of one reply role, which go on with the best of several replies: data for
    context distillation. Null: trees of pairs of replies, each judged."""
    max_nodes: int = Field(4096, ge=3)
    """Most nodes in one tree; what would be beyond it is cut, later turns first. Ten turns of both
    are 3,069 nodes."""
    part_size: int = Field(64, ge=1)
    """Most trees in one file of the rollout; few trees are spread over more, smaller files."""
    sampling: Sampling = Sampling()
    """How user and assistant replies are sampled."""
    induction_max_tokens: int = Field(300, ge=16)
    """Longest note of the inducer, in tokens."""
    actors: ActorPool = ActorPool()
    """Ray actors that roll out trees."""

    @model_validator(mode="after")
    def _selects_on_a_spine(self) -> DialogueConfig:
        if self.select is not None and (self.samples != 1 or self.branching != "spine"):
            raise ValueError("select: expected samples: 1 and branching: spine")
        return self

    def trees_per_part(self, trees: int) -> int:
        """Trees in each file of the rollout: part_size, or fewer, so that all actors get enough."""
        return max(min(self.part_size, trees // (self.actors.max * _PARTS_PER_ACTOR)), 1)


class PreferencesConfig(Section):
    validation_share: float = Field(0.1, gt=0, lt=1)
    """Share of the personas whose rows are held out from training."""
    drop_disagreements: bool = False
    """Drop pairs on which the judge changed its mind when the replies changed places."""
    min_margin: float = Field(0.0, ge=0, le=1)
    """Smallest |P(guided preferred) - P(unguided preferred)| with which a pair is kept."""
    sft_rows: Literal["all", "pairs"] = "all"
    """Whose preferred replies SFT learns: of every comparison (the paper), or of kept pairs."""
    twins: bool = False
    """Pairs are made of what two replies are in the twin's conversation too: there the same two
    have the opposite label, so that what is merely better for everyone cancels out. They are taken
    from selected replies (dialogue.select)."""
    sft_min_met: float = Field(0.0, ge=0, le=1)
    """Of those, SFT learns the replies that meet at least this share of the persona's checkable
    preferences (rejection sampling)."""


Reads = Literal["conversation", "notes", "persona", "twin", "topics", "first", "last"]
"""What a policy may be given to read, see `Condition`."""


class Condition(Section):
    reads: Reads = "conversation"
    """What the policy is given: the conversation; with exact notes of what was hinted at, or with
    all that the persona likes; what the twin would have said after the same replies; the
    conversation without hints and praise; its first message; its last exchange."""
    wordings: Part | None = None
    """Words of the hints; null: evaluation.wordings."""
    topics: Part | None = None
    """What the user talks of; null: evaluation.topics."""


class EvaluationConfig(Section):
    prompts: PromptTexts = None
    """Folder of Jinja templates for the scoring judge, or their texts by file name; null: the
    built-in one, `aloe/evaluation/prompts`."""
    policies: dict[str, str] = Field({"base": "base", "sft": "sft", "dpo": "dpo"})
    """Name in tables -> checkpoint: base, sft, rounds, dpo or ppo of this run, a path, model:NAME,
    or one without a model, program:constant, program:random, program:ideal or program:oracle."""
    conditions: dict[str, Condition] = Field(default_factory=dict)
    """Policy -> under what it is measured, where that is not what all policies have: controls."""
    baseline: str = "base"
    """Policy with which the others are compared, case by case."""
    turns: int = Field(10, ge=2)
    """Turns of each case."""
    max_cases: int | None = Field(None, ge=2)
    """Most held-out personas used, drawn by seed; null uses all. Of twins both are, or none."""
    wordings: Part = "heldout"
    """Words of the hints that twins drop: those that no training has seen, or the others."""
    topics: Part = "train"
    """What twins talk of: things that trainings have seen too, or others."""
    tries: int = Field(3, ge=1)
    """Tries per call before the case is given up and becomes a row in errors."""
    sampling: Sampling = Sampling()
    """How user and policy are sampled."""
    bootstrap_samples: int = Field(2000, ge=100)
    """Resamples of the cases behind each confidence interval."""
    confidence: float = Field(0.95, gt=0.5, lt=1)
    """Coverage of the intervals."""
    actors: ActorPool = ActorPool()
    """Ray actors that hold policy, simulator and judge."""

    def condition(self, policy: str) -> Condition:
        """Under what a policy is measured; nothing in it is null."""
        own = self.conditions.get(policy, Condition())
        return Condition(
            reads=own.reads,
            wordings=own.wordings or self.wordings,
            topics=own.topics or self.topics,
        )

    @model_validator(mode="after")
    def _conditions_of_policies(self) -> EvaluationConfig:
        for name in self.conditions:
            if name not in self.policies:
                raise ValueError(f"conditions.{name}: expected one of policies")
        return self


class ReportConfig(Section):
    trees: int = Field(12, ge=10)
    """Dialogue trees shown."""
    title: str = "ALOE run"
    """Heading of the page."""
