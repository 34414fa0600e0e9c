"""What every comparison with the uncompressed model's images needs: pairs made from the same seeds."""

from __future__ import annotations

from torch import Tensor

LEVELS = 255.0


def as_pairs(batch: Tensor, reference: Tensor | None) -> tuple[Tensor, Tensor]:
    """Both as float 0..255, after a check that they pair up."""
    if reference is None:
        raise ValueError("a fidelity metric compares with reference images of the same seeds; none were given")
    if batch.shape != reference.shape:
        raise ValueError(f"images {tuple(batch.shape)} and references {tuple(reference.shape)} do not pair up")
    return batch.float(), reference.float()
