"""Which examples are held out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import numpy as np

from parediff.errors import RequestError
from parediff.validation import Range, Seed

HeldOut = Annotated[float, Range(above=0, below=1), "share of the images that nothing learns from"]
SplitSeed = Annotated[Seed, "which images are held out"]


def split(labels: Sequence[int], share: float, seed: int) -> tuple[list[int], list[int]]:
    """Indices (train, held out), every class in proportion; exactly round(share * N) are held out, at least one.

    Example i of a class of n, at random rank r, gets the key (r + u) / n with u uniform in [0, 1); the smallest keys
    are held out.
    """
    if not isinstance(share, float) or not 0 < share < 1:
        raise RequestError("held_out", share, "a share between 0 and 1")
    if len(labels) < 2:
        raise RequestError("held_out", share, f"at least two images, there are {len(labels)}")
    draw = np.random.default_rng(seed)
    numbers = np.asarray(labels)
    keys = np.empty(len(numbers))
    for label in np.unique(numbers):
        (members,) = np.nonzero(numbers == label)
        keys[members] = (draw.permutation(len(members)) + draw.random(len(members))) / len(members)
    count = min(len(numbers) - 1, max(1, round(share * len(numbers))))
    order = np.argsort(keys, kind="stable")
    return sorted(order[count:].tolist()), sorted(order[:count].tolist())
