"""On-policy rounds: the latest policy talks, its best replies train it further (issue 19)."""

from aloe.rounds.stage import train_rounds

__all__ = ["train_rounds"]
