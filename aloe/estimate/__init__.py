"""What a run will take, before it is paid for: calls, tokens, dollars and hours by stage."""

from aloe.estimate.report import as_json, estimate_table, notes
from aloe.estimate.run import estimate_run

__all__ = ["as_json", "estimate_run", "estimate_table", "notes"]
