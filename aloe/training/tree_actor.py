"""OpenRLHF's policy, which computes what the rows of a batch have in common once.

Import after `aloe.training.accelerator.prepare`.
"""

from __future__ import annotations

from typing import Any

import torch
from openrlhf.models import Actor

from aloe.training.accelerator import tree_attention
from aloe.training.data import REPLY
from aloe.training.plain_actor import entropies
from aloe.training.token_tree import pack, sees


class TreeActor(Actor):  # type: ignore[misc]
    """An `Actor` for OpenRLHF's SFT and DPO trainers, whose rows may share their beginnings.

    The rows of one call become one tree of tokens and one forward pass. Log-probs and gradients are
    those of the rows one by one; see `aloe.training.token_tree`.
    """

    computed = 0
    """Tokens that went through the model so far, each once; rows have more."""
    entropy: float | None = None
    """Mean entropy, in nats, of the last call's distributions over replies' tokens."""

    def forward(
        self, sequences: torch.Tensor, attention_mask: torch.Tensor, **options: Any
    ) -> torch.Tensor | tuple[torch.Tensor, Any]:
        """Log-probs of the replies' tokens; nobody asks for those of prompts.

        Args:
            sequences: right-padded ids, int64 [rows, tokens].
            attention_mask: 0, PROMPT or REPLY of `aloe.training.data`, [rows, tokens].
            options: what OpenRLHF's trainers say, ``return_logprobs`` among it.

        Returns:
            float32 [rows, tokens - 1]: of each token but the first, 0 where it is no reply's; and
            the model's output, if ``return_output``.
        """
        assert options.pop("return_logprobs"), "a TreeActor has log-probs only"
        reply, found, logits, place, output = self.of_replies(sequences, attention_mask)
        self.entropy = entropies(logits)[place].mean().item()
        log_probs = spread(found, reply)
        return (log_probs, output) if options.get("return_output") else log_probs

    def of_replies(
        self, sequences: torch.Tensor, attention_mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, Any]:
        """Log-probs of the replies' tokens and the distributions that they were drawn from.

        Args:
            sequences, attention_mask: see `forward`.

        Returns:
            Which tokens but the first are a reply's, bool [rows, tokens - 1]; their log-probs,
            float32 [asked]; logits, float32 [nodes, words], each once; the node of each asked
            token, int64 [asked]; the model's output.
        """
        device = sequences.device
        rows = [row[keep > 0].tolist() for row, keep in zip(sequences, attention_mask, strict=True)]
        tree = pack(rows)
        self.computed += len(tree)

        reply = attention_mask[:, 1:] == REPLY
        # Of each asked token the node that predicts it, which may do so in several rows.
        asked = [
            torch.from_numpy(path[:-1])[keep[: len(path) - 1].cpu()]
            for path, keep in zip(tree.paths, reply, strict=True)
        ]
        nodes, place = torch.cat(asked).to(device).unique(return_inverse=True)
        output = self.model(
            torch.from_numpy(tree.ids)[None].to(device),
            attention_mask=tree_mask(torch.from_numpy(tree.end).to(device)),
            position_ids=torch.from_numpy(tree.position)[None].to(device),
            logits_to_keep=nodes,
        )
        logits = output["logits"][0].float()
        if self.temperature != 1.0:
            logits = logits / self.temperature
        answers = sequences[:, 1:][reply]
        found = logits[place, answers] - logits.logsumexp(-1)[place]
        return reply, found, logits, place, output


def spread(values: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    """Values, float [asked], at the places that are True, 0 elsewhere; float32, shaped as these."""
    return torch.zeros(where.shape, device=values.device).masked_scatter(where, values)


def tree_mask(end: torch.Tensor) -> Any:
    """The attention mask of a `TokenTree` as the model's attention takes it, [1, 1, nodes, nodes].

    Args:
        end: of the tree, int64 [nodes], where the model is.
    """
    if end.device.type == "cpu":
        return torch.from_numpy(sees(end.numpy()))[None, None]
    from torch.nn.attention.flex_attention import create_block_mask

    def visible(_: Any, __: Any, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        return (key <= query) & (query < end[key])

    return create_block_mask(visible, None, None, len(end), len(end), device=end.device)


def why_not(config: Any) -> str | None:
    """Why a model cannot take a tree's mask; None if it can.

    Args:
        config: a `transformers.PretrainedConfig`.
    """
    from transformers import AutoModelForCausalLM

    try:
        model = AutoModelForCausalLM._model_mapping[type(config)]
    except KeyError:
        return "it is no causal language model of transformers"
    support = {"sdpa": "_supports_sdpa", "flex_attention": "_supports_flex_attn"}
    if not getattr(model, support[tree_attention()], False):
        return f"it has no {tree_attention()} attention"
    if getattr(model, "_is_stateful", False) or set(_layers(config)) - {"full_attention"}:
        return "some of its layers do not attend to all tokens before"
    return None


def _layers(config: Any) -> list[str]:
    layers = getattr(config, "layer_types", None)
    if layers is not None:
        return list(layers)
    windowed = getattr(config, "sliding_window", None) and getattr(
        config, "use_sliding_window", True
    )
    return ["sliding_attention" if windowed else "full_attention"]
