"""The ALOE benchmark: how well policies align with people they have never met, turn by turn."""

from aloe.evaluation.given import judge_conversations
from aloe.evaluation.stage import evaluate_policies, retry_failed
from aloe.evaluation.table import evaluation_table

__all__ = ["evaluate_policies", "evaluation_table", "judge_conversations", "retry_failed"]
