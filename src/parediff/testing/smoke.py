"""Settings under which something small shows its effect in seconds."""

from __future__ import annotations

from parediff.config.catalogue import files

MARK = "# smoke:"


def smoke_of(group: str, name: str) -> list[str]:
    """Overrides from the lines `# smoke: setting=value …` of an option's YAML: those that a suite runs it with."""
    lines = files(group)[name].read_text(encoding="utf-8").splitlines()
    settings = [entry for line in lines if line.startswith(MARK) for entry in line.removeprefix(MARK).split()]
    return [f"{group}s.{name}.{setting}" for setting in settings]
