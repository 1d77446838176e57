"""Report: one self-contained HTML page about a run, readable without a network."""

from aloe.report.stage import write_report

__all__ = ["write_report"]
