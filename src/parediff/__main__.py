"""`python -m parediff`."""

from parediff.cli import entry

entry()
