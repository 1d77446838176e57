"""From preference data to checkpoints, with OpenRLHF and DeepSpeed as Ray actors."""

from aloe.training.dpo import train_dpo
from aloe.training.sft import train_sft

__all__ = ["train_dpo", "train_sft"]
