"""Tree-shaped preference dialogues between a simulated user and two assistants."""

from aloe.dialogue.retry import retry_failed
from aloe.dialogue.stage import rollout_dialogues

__all__ = ["retry_failed", "rollout_dialogues"]
