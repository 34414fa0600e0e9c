"""`python -m parediff`."""

from parediff.cli import entry

if __name__ == "__main__":
    entry()
