"""How ways of sampling differ in a number: over pairs of equal seeds or seed blocks, else with independent errors."""

from __future__ import annotations

import math
from collections.abc import Sequence

from parediff.results.axes import Axis
from parediff.results.difference import Difference, paired
from parediff.results.points import mean_of, seed_of
from parediff.results.record import Record

Term = tuple[float, Sequence[Record]]
"""A weight, and the runs of one way of sampling, which differ in seeds only."""


def difference(first: Sequence[Record], second: Sequence[Record], axis: Axis) -> Difference | None:
    """`second - first`."""
    return contrast([(-1.0, first), (1.0, second)], axis)


def contrast(terms: Sequence[Term], axis: Axis) -> Difference | None:
    """The weighted sum of the terms' means; None where a term has no value.

    Two or more seeds that all terms have in common: over those seeds. Single runs of one seed set: block by block.
    What the terms share then cancels, in the value and in its error. Otherwise errors are added as independent ones,
    which is too wide for runs that share their seeds.
    """
    valued = [(weight, [run for run in runs if axis.value(run) is not None]) for weight, runs in terms]
    if not all(runs for _, runs in valued):
        return None
    return _over_seeds(valued, axis) or _over_blocks(valued, axis) or _independent(valued, axis)


def _over_seeds(terms: Sequence[Term], axis: Axis) -> Difference | None:
    """None below two seeds that all terms have."""
    by_seed = [(weight, _by_seed(runs, axis)) for weight, runs in terms]
    common = [seed for seed in by_seed[0][1] if all(seed in values for _, values in by_seed)]
    if len(common) < 2:
        return None
    own = [math.fsum(weight * values[seed] for weight, values in by_seed) for seed in common]
    mean = math.fsum(own) / len(own)
    spread = math.fsum((value - mean) ** 2 for value in own) / (len(own) - 1)
    return Difference(mean, math.sqrt(spread / len(own)), len(own))


def _over_blocks(terms: Sequence[Term], axis: Axis) -> Difference | None:
    """None unless each term is one run, all of the same images in as many blocks, measured alike."""
    runs = [run for _, own in terms for run in own]
    if len(runs) != len(terms) or len({_images(run) for run in runs}) > 1:
        return None
    error, pairs = paired([(weight, axis.left_out(own[0])) for weight, own in terms])
    value = math.fsum(weight * (axis.value(own[0]) or 0.0) for weight, own in terms)
    return Difference(value, error, pairs) if pairs else None


def _independent(terms: Sequence[Term], axis: Axis) -> Difference:
    means = [(weight, *mean_of(runs, axis)) for weight, runs in terms]
    errors = [weight * error for weight, _, error in means if error is not None]
    value = math.fsum(weight * mean for weight, mean, _ in means)
    return Difference(value, math.hypot(*errors) if len(errors) == len(means) else None, 0)


def _images(run: Record) -> str:
    return f"{run.protocol} {run.workload.get('first_seed')} {run.workload.get('count')}"


def _by_seed(runs: Sequence[Record], axis: Axis) -> dict[str, float]:
    values = {seed_of(run): axis.value(run) for run in runs}
    return {seed: value for seed, value in values.items() if value is not None}
