"""The page over all records."""

from parediff.dashboard.command import dashboard_command
from parediff.dashboard.render import render

__all__ = ["dashboard_command", "render"]
