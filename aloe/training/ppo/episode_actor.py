"""OpenRLHF's policy as its PPO calls it, which computes what episodes have in common once.

Import after `aloe.training.accelerator.prepare`.
"""

from __future__ import annotations

from typing import Any

import torch

from aloe.training.data import PROMPT, REPLY
from aloe.training.tree_actor import TreeActor, spread


class EpisodeActor(TreeActor):
    """System prompt and first message are computed once; logits only where the policy speaks."""

    def forward(  # type: ignore[override]
        self,
        sequences: torch.Tensor,
        action_mask: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        return_output: bool = False,
        return_entropy: bool = False,
        **_: Any,
    ) -> torch.Tensor | tuple[torch.Tensor, Any]:
        """Log-probs of the policy's tokens; see `openrlhf.models.Actor.forward`.

        Args:
            sequences: right-padded ids, int64 [rows, tokens].
            action_mask: of each token but the first whether the policy said it, 0 or 1,
                [rows, tokens - 1]; without it all of them are asked for.
            attention_mask: 0 where there is padding, [rows, tokens].

        Returns:
            float32 [rows, tokens - 1], 0 where the policy did not speak; and, if ``return_output``,
            the model's output, if ``return_entropy`` with ``entropy`` of the same shape, in nats.
        """
        assert attention_mask is not None
        marked = attention_mask.long() * PROMPT
        asked = attention_mask[:, 1:].bool()
        if action_mask is not None:
            asked = asked & action_mask.bool()
        marked[:, 1:][asked] = REPLY
        where, found, logits, place, output = self.of_replies(sequences, marked)
        log_probs = spread(found, where)
        if return_entropy:
            shares = logits.log_softmax(-1)
            output.entropy = spread(-(shares.exp() * shares).sum(-1)[place], where)
        return (log_probs, output) if return_output else log_probs
