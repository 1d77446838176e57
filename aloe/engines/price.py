"""What a call costs, from its tokens and the model's ``price`` in the configuration."""

from __future__ import annotations

from aloe.config import Price


def cost_usd(
    price: Price | None, prompt_tokens: int, cached_tokens: int, completion_tokens: int
) -> float:
    """US dollars for one call.

    Args:
        price: US dollars per million tokens; None where nobody has said, which counts as nothing.
        prompt_tokens: tokens sent, cached ones included.
        cached_tokens: of those, the ones that a prefix cache served.
        completion_tokens: tokens made.
    """
    if price is None:
        return 0.0
    cached = price.prompt if price.cached is None else price.cached
    millionths = (
        (prompt_tokens - cached_tokens) * price.prompt
        + cached_tokens * cached
        + completion_tokens * price.completion
    )
    return millionths / 1_000_000
