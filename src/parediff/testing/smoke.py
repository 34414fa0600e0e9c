"""Settings under which something small shows its effect in seconds."""

from __future__ import annotations

from collections.abc import Sequence

from parediff.config.catalogue import files
from parediff.config.compose import Composer
from parediff.config.construct import construct
from parediff.config.request import Request, build

MARK = "# smoke:"


def smoke_of(group: str, name: str) -> list[str]:
    """Overrides from the lines `# smoke: setting=value …` of an option's YAML: those that a suite runs it with."""
    lines = files(group)[name].read_text(encoding="utf-8").splitlines()
    settings = [entry for line in lines if line.startswith(MARK) for entry in line.removeprefix(MARK).split()]
    return [f"{group}s.{name}.{setting}" for setting in settings]


def method_request(name: str, overrides: Sequence[str]) -> Request:
    """A small run of one method; one that repairs others' damage stands beside a method that does some."""
    asked = [*smoke_of("method", name), *overrides]
    alone = Composer("config").compose([*asked, f"method=[{name}]"])
    method = construct(alone.methods[name], name)
    if not method.corrects:
        return build(alone)
    order = f"{name},ptq" if method.comes_first else f"ptq,{name}"
    beside = [f"method=[{order}]", "methods.ptq.weight_bits=4", *smoke_of("method", "ptq")]
    return build(Composer("config").compose([*asked, *beside]))
