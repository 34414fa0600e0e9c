"""What reuse can save in seconds: the time that a full call spends in the modules which a recalling one leaves out."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from torch import nn

from parediff.reuse.engine import Tally
from parediff.reuse.replacements import Cut, Put, StandIn, standing_in


def left_out(cuts: Sequence[Cut]) -> dict[nn.Module, float]:
    """The modules that stand still where every cut is recalled, outermost ones, and the share of each that does."""
    changes = [change for cut in cuts for change in cut.recall]
    puts = [change for change in changes if isinstance(change, Put)]
    with standing_in(changes):
        shares = [put.module.left_out if isinstance(put.module, StandIn) else 1.0 for put in puts]
    found = {put.owner.get_submodule(put.name): share for put, share in zip(puts, shares, strict=True) if share}
    inside = {child for module in found for child in module.modules() if child is not module}
    return {module: share for module, share in found.items() if module not in inside}


@dataclass
class Shares:
    """Seconds of every call of a network, and of those what went to the parts that could be left out."""

    calls: list[float] = field(default_factory=list)
    parts: list[float] = field(default_factory=list)

    @property
    def of_a_call(self) -> float:
        """Median over the calls."""
        return median(part / call for part, call in zip(self.parts, self.calls, strict=True))


@contextmanager
def timing(network: nn.Module, parts: dict[nn.Module, float]) -> Iterator[Shares]:
    """Time the calls of a network and of its `parts`, each of which counts with its share."""
    shares, started = Shares(), {}

    def enter(module: nn.Module, *_: Any) -> None:
        if module is network:
            shares.parts.append(0.0)
        started[module] = time.perf_counter()

    def leave(module: nn.Module, *_: Any) -> None:
        seconds = time.perf_counter() - started.pop(module)
        if module is network:
            shares.calls.append(seconds)
        else:
            shares.parts[-1] += parts[module] * seconds

    with ExitStack() as hooks:
        for module in (network, *parts):
            hooks.callback(module.register_forward_pre_hook(enter).remove)
            hooks.callback(module.register_forward_hook(leave).remove)
        yield shares


def time_ratio(tally: Tally, part_of_a_call: float, calls_of_a_run: float) -> float:
    """How many times as long a full run takes as one whose calls, as tallied, cost nothing in what they leave out.

    `part_of_a_call` is the share of a call that reuse leaves out, `calls_of_a_run` the share of a run that is calls.
    """
    calls = tally.full + tally.forced + tally.reuse + tally.jump
    saved = (tally.reuse * part_of_a_call + tally.jump) / calls
    return 1 / (1 - calls_of_a_run * saved)
