"""Tree-shaped preference dialogues between a simulated user and two assistants."""

from aloe.dialogue.retry import retry_failed
from aloe.dialogue.stage import rollout_dialogues
from aloe.dialogue.start import check_start

__all__ = ["check_start", "retry_failed", "rollout_dialogues"]
