"""OpenRLHF's policy, one sequence per row, with the same calls as `aloe.training.tree_actor`.

Import after `aloe.training.accelerator.prepare`.
"""

from __future__ import annotations

from typing import Any

import torch
from openrlhf.models import Actor

from aloe.training.data import REPLY


class PlainActor(Actor):  # type: ignore[misc]
    """An `Actor` whose attention masks tell prompts from replies."""

    computed = 0
    """Tokens that went through the model so far, padding included."""
    entropy: float | None = None
    """Mean entropy, in nats, of the last call's distributions over replies' tokens; None where
    rows are packed and their logits lie elsewhere."""

    def forward(
        self, sequences: torch.Tensor, attention_mask: torch.Tensor, **options: Any
    ) -> torch.Tensor | tuple[torch.Tensor, Any]:
        """See `aloe.training.tree_actor.TreeActor.forward`; log-probs of prompts are there too."""
        both = options.pop("return_output", False)
        present = (attention_mask > 0).long()
        log_probs, output = super().forward(
            sequences, attention_mask=present, return_output=True, **options
        )
        if self.packing_samples:
            self.computed += int(present.sum())
        else:
            self.computed += present.numel()
            logits = output["logits"][:, :-1][attention_mask[:, 1:] == REPLY]
            self.entropy = entropies(logits).mean().item()
        return (log_probs, output) if both else log_probs


@torch.no_grad()
def entropies(logits: torch.Tensor) -> torch.Tensor:
    """Entropies, in nats, float32 [tokens], of distributions given by logits [tokens, words]."""
    found = []
    for part in logits.split(256):  # the whole would be as large again as the logits
        log_probs = part.float().log_softmax(-1)
        found.append(-(log_probs.exp() * log_probs).sum(-1))
    return torch.cat(found)
