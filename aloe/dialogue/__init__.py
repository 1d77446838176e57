"""Tree-shaped preference dialogues between a simulated user and two assistants."""

from aloe.dialogue.stage import rollout_dialogues

__all__ = ["rollout_dialogues"]
