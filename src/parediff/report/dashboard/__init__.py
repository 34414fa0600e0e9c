"""The page over all records."""

from parediff.report.dashboard.render import render

__all__ = ["render"]
