"""Supervised, reward and preference training."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from aloe.config.section import Section


class TrainingStage(Section):
    learning_rate: float = Field(1e-5, gt=0)
    """Peak learning rate (Adam, cosine decay with minimum)."""
    epochs: int = Field(1, ge=1)
    """Passes over the training rows."""
    batch_size: int = Field(48, ge=1)
    """Rows per optimizer step, over all ranks."""
    micro_batch_size: int = Field(1, ge=1)
    """Rows per forward pass on one rank."""
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
    """Optimizer steps between passes over the held-out rows; null: before and after only."""
    checkpoint_steps: int | None = Field(100, ge=1)
    """Optimizer steps between the states from which a killed training goes on; null keeps none."""


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
    start_from: Literal["sft", "base"] = "sft"
    """Checkpoint from which policy and reference start."""
    reference: Literal["precomputed", "placed"] = "precomputed"
    """How the reference answers: once for all pairs, before its devices are given back, or batch by
    batch from devices of its own, one batch ahead of the policy."""
    reference_dir: str | None = None
    """Folder of precomputed log-probs, for several runs on the same pairs; null: in this run."""
    best_by: Literal["loss", "accuracy_logprob", "accuracy_reward", "margin"] | None = None
    """Held-out metric of eval_steps by which the best checkpoint is kept; null keeps the last."""


class TrainingConfig(Section):
    base: str
    """Checkpoint that is trained: embedded://NAME, folder, URL or Hugging Face id."""
    trust_remote_code: bool = False
    """Run code that the checkpoint brings along. Off unless you have read that code."""
    sft: SftConfig = SftConfig()
    """Supervised fine-tuning on preferred replies."""
    reward: RewardConfig | None = None
    """Reward model trained on the pairs; null trains none."""
    dpo: DpoConfig = DpoConfig()
    """Direct preference optimisation on pairs."""
