"""A class for TRL's `environment_factory`: the user is behind a tool that the model calls."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from aloe.environments.plain import TwinsEnvironment

_TASK = (
    "Chat with somebody by calling send_message, {turns} times. What you send is read by that "
    "person, who likes some ways of talking and not others; find out which. The person says: "
)


class TwinsToolEnvironment:
    """`TwinsEnvironment` as TRL plays it; each public method but reset and get_reward is a tool."""

    def __init__(self, **options: Any) -> None:
        """Take the arguments of `TwinsEnvironment`: ``functools.partial`` makes a factory of it.

        Raises:
            ValueError: an option is out of its range.
        """
        self._environment = TwinsEnvironment(**options)
        self._rewards: list[float] = []

    def reset(self, **row: Any) -> str:
        """Begin the conversation of a row of the data set.

        Args:
            row: its columns; only ``seed`` is read.

        Returns:
            The user's first message, which TRL appends to the prompt.
        """
        self._rewards = []
        return self._environment.reset(int(row["seed"]))

    def send_message(self, message: str) -> str:
        """Send a message to the person you are chatting with.

        Args:
            message: What you say to the person.

        Returns:
            What the person answers.
        """
        if len(self._rewards) == self._environment.turns:
            return "The conversation is over."
        said, reward, _, _ = self._environment.step(message)
        self._rewards.append(reward)
        return said or "Goodbye!"

    def get_reward(self) -> float:
        """Mean share of the preferences that was met, in [0, 1]; a turn that was not taken is 0."""
        return sum(self._rewards) / self._environment.turns


def rows(seeds: Iterable[int], turns: int = 6) -> list[dict[str, Any]]:
    """Rows of a data set for TRL's trainer, one for each seed; 2n and 2n + 1 are twins.

    Args:
        turns: those of the environment, which the prompt tells.
    """
    prompt = [{"role": "user", "content": _TASK.format(turns=turns)}]
    return [{"prompt": prompt, "seed": seed} for seed in seeds]
