"""From trees to training rows, and to other tools' formats."""

from aloe.preferences.export import FORMATS, export_run
from aloe.preferences.stage import build_preferences

__all__ = ["FORMATS", "build_preferences", "export_run"]
