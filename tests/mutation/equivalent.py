"""Mutants that change nothing that anyone can see, by (file, function, the line that it becomes), with the reason."""

EQUIVALENT: dict[tuple[str, str, str], str] = {}
