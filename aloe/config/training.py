"""Supervised, reward and preference training."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from aloe.config.section import Section
from aloe.config.speakers import Sampling


class OptimizerStage(Section):
    learning_rate: float = Field(1e-5, gt=0)
    """Peak learning rate (Adam, cosine decay with minimum)."""
    batch_size: int = Field(48, ge=1)
    """Rows (episodes) per optimizer step, over all ranks."""
    micro_batch_size: int = Field(1, ge=1)
    """Rows (episodes) per forward pass on one rank."""
    max_len: int = Field(8192, ge=64)
    """Longest prompt plus reply, in tokens; longer prompts lose their oldest turns."""
    warmup_ratio: float = Field(0.03, ge=0, lt=1)
    """Share of the steps over which the learning rate rises."""
    max_norm: float = Field(1.0, gt=0)
    """Gradient clipping norm."""
    zero_stage: int = Field(2, ge=0, le=3)
    """DeepSpeed ZeRO stage."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass to save memory."""
    tree_packing: bool = True
    """Compute what the rows of a forward pass have in common once; rows of a tree stay together."""
    eval_steps: int | None = Field(None, ge=1)
    """Optimizer steps between looks at what is held out; null: before and after only."""
    checkpoint_steps: int | None = Field(100, ge=1)
    """Optimizer steps between the states from which a killed training goes on; null keeps none."""


class TrainingStage(OptimizerStage):
    epochs: int = Field(1, ge=1)
    """Passes over the training rows."""


class SftConfig(TrainingStage):
    packing: bool = True
    """Pack short rows into one sequence; only without tree packing, and with flash attention."""
    best_by: Literal["loss"] | None = None
    """Held-out metric of eval_steps by which the best checkpoint is kept; null keeps the last."""


class RewardConfig(TrainingStage):
    start_from: Literal["sft", "base"] = "sft"
    """Checkpoint from which the reward model starts, with a fresh head."""
    best_by: Literal["loss", "accuracy"] | None = None
    """Held-out metric of eval_steps by which the best checkpoint is kept; null keeps the last."""


class DpoConfig(TrainingStage):
    beta: float = Field(0.9, gt=0)
    """Strength of the tie to the reference (paper 0.9, RLPA 0.01)."""
    label_smoothing: float = Field(0.0, ge=0, lt=0.5)
    """Assumed share of wrong preference labels."""
    ipo: bool = False
    """The squared loss of IPO (arXiv 2310.12036) instead of DPO's."""
    nll_coef: float = Field(0.0, ge=0)
    """Weight of the preferred replies' mean negative log-prob per token, added to the loss."""
    start_from: Literal["sft", "rounds", "base"] = "sft"
    """Checkpoint from which policy and reference start."""
    reference: Literal["precomputed", "placed"] = "precomputed"
    """How the reference answers: once for all pairs, before its devices are given back, or batch by
    batch from devices of its own, one batch ahead of the policy."""
    reference_dir: str | None = None
    """Folder of precomputed log-probs, for several runs on the same pairs; null: in this run."""
    best_by: Literal["loss", "accuracy_logprob", "accuracy_reward", "margin"] | None = None
    """Held-out metric of eval_steps by which the best checkpoint is kept; null keeps the last."""


class RewardWeights(Section):
    verifiable: float = Field(1.0, ge=0)
    """Of the share of the persona's checkable preferences that a reply meets, in [0, 1]."""
    judge: float = Field(0.0, ge=0)
    """Of the expected rating by ``roles.judge``, moved to [0, 1]."""
    model: float = Field(0.0, ge=0)
    """Of the trained reward model's number (mean 0 and deviation 1 on held-out pairs)."""


class Limit(Section):
    warn: float | None = None
    """Beyond it a warning is shown; null never warns."""
    stop: float | None = None
    """Beyond it the training stops with an error; null never stops."""


class GuardsConfig(Section):
    length: Limit = Limit()
    """Tokens of a reply, mean of an update's episodes; too many."""
    repetition: Limit = Limit(warn=0.3)
    """Share of an episode's word trigrams that were there before in its replies; too large."""
    parroting: Limit = Limit(warn=0.5)
    """Share of a reply's telling words that are the persona's own; too large."""
    kl: Limit = Limit(warn=1.0)
    """KL divergence from the reference, nats a token; too large."""
    entropy: Limit = Limit(warn=0.1)
    """Entropy of the policy's distributions, nats a token; too small."""


class PpoConfig(OptimizerStage):
    learning_rate: float = Field(1e-6, gt=0)
    """Peak learning rate of the policy (Adam, cosine decay with minimum)."""
    critic_learning_rate: float = Field(9e-6, gt=0)
    """Peak learning rate of the critic."""
    updates: int = Field(100, ge=1)
    """Rollouts, each followed by training on its batch_size episodes."""
    samples: int = Field(4, ge=1)
    """Episodes with the same persona and first message in one batch."""
    turns: int = Field(5, ge=1)
    """Replies of the policy after which an episode ends."""
    passes: int = Field(1, ge=1)
    """Passes of the optimizer over each batch."""
    start_from: Literal["dpo", "sft", "rounds", "base"] = "dpo"
    """Checkpoint from which policy and reference start."""
    estimator: Literal[
        "gae", "reinforce", "reinforce_baseline", "rloo", "group_norm", "dr_grpo"
    ] = "gae"
    """OpenRLHF's advantage estimator; gae trains a critic, reinforce is REINFORCE++."""
    credit: Literal["turn", "episode"] = "turn"
    """Where rewards land: each on its turn's last token, or their sum on the episode's last."""
    gamma: float = Field(1.0, gt=0, le=1)
    """Discount per token of the policy."""
    lambd: float = Field(1.0, ge=0, le=1)
    """Of gae: 1 trusts returns, 0 trusts the critic."""
    kl_coef: float = Field(0.01, ge=0)
    """Weight of the KL divergence from the reference, per token of the policy."""
    kl_target: float | None = Field(None, gt=0)
    """KL divergence to which the weight adapts (arXiv 1909.08593); null keeps the weight."""
    kl_horizon: int = Field(10000, ge=1)
    """Episodes over which the weight adapts."""
    clip: float = Field(0.2, gt=0, lt=1)
    """Largest change of a token's probability ratio that is rewarded."""
    value_clip: float = Field(0.2, gt=0)
    """Largest change of the critic's value that counts."""
    entropy_coef: float = Field(0.0, ge=0)
    """Weight of the entropy bonus."""
    critic_warmup: int = Field(0, ge=0)
    """Updates in which only the critic learns."""
    rewards: RewardWeights = RewardWeights()
    """What a reply is worth: the weighted sum of these."""
    sampling: Sampling = Sampling(temperature=1.0, top_p=1.0, max_tokens=60)
    """How the policy samples in its episodes."""
    tries: int = Field(3, ge=1)
    """Tries per call of user and judge before an episode ends early."""
    ahead: bool = False
    """Asynchronous: the next batch is rolled out, with the weights before, while one is trained."""
    sync_probes: int = Field(4, ge=1)
    """Episodes on which engines and trainer are compared after each sync of weights."""
    sync_limit: float = Field(0.01, gt=0)
    """Largest KL divergence, nats a token, between trainer and engine after a sync."""
    eval_dialogues: int = Field(10, ge=1)
    """Dialogues with held-out personas at each look; they go to the report."""
    guards: GuardsConfig = GuardsConfig()
    """Signs of a policy that games its reward."""

    @model_validator(mode="after")
    def _fits(self) -> PpoConfig:
        grouped = ("rloo", "reinforce_baseline", "group_norm", "dr_grpo")
        if self.estimator in grouped and self.samples < 2:
            raise ValueError(f"estimator {self.estimator} compares samples: expected at least 2")
        if self.batch_size % self.samples:
            raise ValueError(
                f"batch_size: {self.batch_size}, expected a multiple of samples = {self.samples}"
            )
        if self.sampling.top_p < 1 or self.sampling.temperature == 0:
            raise ValueError(
                "sampling: expected temperature above 0 and top_p 1, as trainer and engine would "
                "disagree on the distribution that is sampled from"
            )
        if self.critic_warmup and self.estimator != "gae":
            raise ValueError(
                f"critic_warmup: {self.critic_warmup}, expected 0, as estimator {self.estimator} "
                "has no critic and nothing would be trained"
            )
        if self.critic_warmup >= self.updates:
            raise ValueError(
                f"critic_warmup: {self.critic_warmup}, expected fewer than updates = {self.updates}"
            )
        if not any(self.rewards.model_dump().values()):
            raise ValueError("rewards: expected at least one weight above 0")
        return self


class RoundsConfig(Section):
    steps: tuple[Literal["sft", "dpo"], ...] = Field(("sft",), min_length=1)
    """How each round trains: on the best of its own replies, or on twin pairs among them."""
    start_from: Literal["sft", "base"] = "sft"
    """Checkpoint that the first round begins with; the others begin with the round before."""
    samples: int = Field(8, ge=2)
    """Replies of the policy in each turn, one of which goes on."""
    slips: float = Field(0.2, ge=0, le=1)
    """Share of the turns that go on with any of them."""
    conversations: int | None = Field(None, ge=2)
    """Conversations of a round; null: one with each persona."""
    sft: SftConfig | None = None
    """How the rounds train by SFT; null: as training.sft."""
    dpo: DpoConfig | None = None
    """How the rounds train by DPO; null: as training.dpo."""


class TrainingConfig(Section):
    base: str
    """Checkpoint that is trained: embedded://NAME, folder, URL or Hugging Face id."""
    trust_remote_code: bool = False
    """Run code that the checkpoint brings along. Off unless you have read that code."""
    sft: SftConfig = SftConfig()
    """Supervised fine-tuning on preferred replies."""
    reward: RewardConfig | None = None
    """Reward model trained on the pairs; null trains none."""
    rounds: RoundsConfig | None = None
    """Rounds in which the policy trains on its own best replies, after SFT; null: none."""
    dpo: DpoConfig | None = DpoConfig()
    """Direct preference optimisation on pairs; null trains none."""
    ppo: PpoConfig | None = None
    """Reinforcement learning in conversation with simulated users; null trains none."""

    @model_validator(mode="after")
    def _starts_are_trained(self) -> TrainingConfig:
        for name in ("dpo", "ppo"):
            options = getattr(self, name)
            if options is None:
                continue
            start = options.start_from
            if start in ("dpo", "rounds") and getattr(self, start) is None:
                raise ValueError(f"{name}.start_from: {start} is not trained, as it is null")
        rounds = self.rounds
        if rounds is not None and "dpo" in rounds.steps and rounds.dpo is None and self.dpo is None:
            raise ValueError("rounds.steps: dpo expects rounds.dpo, as training.dpo is null")
        return self

    def checkpoint_of(self, kind: str) -> str:
        """Where a training's checkpoint lies in the run folder.

        Args:
            kind: sft, dpo, ppo, or rounds for the last round's.
        """
        if kind == "rounds":
            assert self.rounds is not None
            return self.checkpoint_before_round(len(self.rounds.steps) + 1)
        return f"training/{kind}/checkpoint"

    def checkpoint_before_round(self, number: int) -> str:
        """Where the checkpoint lies that a round begins with, from 1; that of SFT for the first."""
        assert self.rounds is not None
        if number == 1:
            return "training/sft/checkpoint"
        step = self.rounds.steps[number - 2]
        return f"training/rounds/{number - 1:02d}/training/{step}/checkpoint"
