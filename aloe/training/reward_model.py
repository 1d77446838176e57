"""OpenRLHF's reward model, which computes what the rows of a batch have in common once.

Import after `aloe.training.accelerator.prepare`.
"""

from __future__ import annotations

from typing import Any

import torch
from openrlhf.models import get_llm_for_sequence_regression

from aloe.training.token_tree import pack
from aloe.training.tree_actor import tree_mask


def load_reward_model(checkpoint: str, packs_trees: bool, **options: Any) -> Any:
    """A checkpoint with a head that gives one number per sequence.

    Args:
        packs_trees: compute what the rows of a call have in common once.
        options: of `openrlhf.models.get_llm_for_sequence_regression`; with ``normalize_reward`` the
            rewards are of mean 0 and deviation 1 on the pairs that were held out in training.
    """
    model = get_llm_for_sequence_regression(checkpoint, "reward", **options)
    # OpenRLHF reads both while the model is built, which transformers 5 does without memory: what
    # is no parameter is lost then.
    model.mean.fill_(getattr(model.config, "mean", 0.0))
    model.std.fill_(getattr(model.config, "std", 1.0))
    # OpenRLHF makes the class inside a function, so that it cannot be derived from beforehand.
    if packs_trees:
        model.__class__ = type("RewardModel", (_PackedRows, type(model)), {})
    return model


class _PackedRows:
    computed = 0
    """Tokens that went through the model so far, each once; rows have more."""

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **options: Any
    ) -> torch.Tensor | tuple[torch.Tensor, Any]:
        """The reward of each row, at its last token.

        Args:
            input_ids: int64 [rows, tokens], padded on either side.
            attention_mask: 0 or 1, [rows, tokens].
            options: what OpenRLHF's trainer says.

        Returns:
            float [rows]; and the base model's output, if ``return_output``.
        """
        model: Any = self
        device = input_ids.device
        tree = pack(
            [row[keep > 0].tolist() for row, keep in zip(input_ids, attention_mask, strict=True)]
        )
        self.computed += len(tree)
        outputs = getattr(model, model.base_model_prefix)(
            torch.from_numpy(tree.ids)[None].to(device),
            attention_mask=tree_mask(torch.from_numpy(tree.end).to(device)),
            position_ids=torch.from_numpy(tree.position)[None].to(device),
        )
        last = torch.tensor([path[-1] for path in tree.paths], device=device)
        head = getattr(model, model.value_head_prefix)
        rewards = head(outputs["last_hidden_state"][0, last]).squeeze(-1)
        if not model.training and model.normalize_reward:
            rewards = (rewards - model.mean) / model.std
        return (rewards, outputs) if options.get("return_output") else rewards
